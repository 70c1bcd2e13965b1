//! How much KV the slots take, and which slots are free. Who goes without is decided elsewhere.

use std::collections::BTreeSet;

use crate::model::SlotId;

/// Bytes of KV that slots take.
#[derive(Debug)]
pub(super) struct KvBudget {
    total_bytes: u64,
    used_bytes: u64,
}

impl KvBudget {
    pub(super) fn new(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            used_bytes: 0,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.used_bytes)
    }

    /// Takes `bytes`, which are free.
    pub(super) fn take(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.free_bytes(), "{bytes} bytes taken beyond the budget");
        self.used_bytes += bytes;
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used_bytes, "{bytes} bytes given back, never taken");
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }
}

/// Free slots; the lowest goes first, so that a short batch lies together.
#[derive(Debug)]
pub(super) struct SlotPool {
    free: BTreeSet<SlotId>,
}

impl SlotPool {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            free: (0..slots).map(SlotId).collect(),
        }
    }

    pub(super) fn lease(&mut self) -> Option<SlotId> {
        self.free.pop_first()
    }

    pub(super) fn free(&mut self, slot: SlotId) {
        let was_leased = self.free.insert(slot);
        debug_assert!(was_leased, "{slot:?} freed twice");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    #[cfg(test)]
    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }
}
