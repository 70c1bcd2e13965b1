//! How much KV is promised, and which slots are free. Reserving is all or nothing; who waits when it fails is decided
//! in `plan`.

use std::collections::BTreeSet;

use crate::model::SlotId;

/// Bytes of KV promised to running sequences.
#[derive(Debug)]
pub(super) struct KvBudget {
    total_bytes: u64,
    reserved_bytes: u64,
}

impl KvBudget {
    pub(super) fn new(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            reserved_bytes: 0,
        }
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    /// Returns whether `bytes` are left.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        bytes <= self.total_bytes.saturating_sub(self.reserved_bytes)
    }

    /// Promises `bytes`, which fit.
    pub(super) fn reserve(&mut self, bytes: u64) {
        debug_assert!(self.fits(bytes), "{bytes} bytes reserved beyond the budget");
        self.reserved_bytes += bytes;
    }

    pub(super) fn free(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
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
