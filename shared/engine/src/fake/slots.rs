//! The fake model's KV: which ids were written to which slot.

use kr_contract::TokenId;

use super::broken;
use crate::model::{BucketId, ModelError, ModelLimits, SlotId};

#[derive(Debug)]
pub(super) struct Slots {
    limits: ModelLimits,
    slots: Vec<Option<Slot>>,
    /// The first breach of a call that cannot return an error.
    breach: Option<String>,
}

/// One held slot.
#[derive(Debug)]
pub(super) struct Slot {
    bucket: BucketId,
    capacity: usize,
    ids: Vec<TokenId>,
    /// The token chosen last, and the step that did.
    sampled: Option<(u64, TokenId)>,
    open_steps: u32,
}

impl Slots {
    pub(super) fn new(limits: &ModelLimits) -> Self {
        Self {
            limits: limits.clone(),
            slots: (0..limits.max_sequences).map(|_| None).collect(),
            breach: None,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub(super) fn check(&self) -> Result<(), ModelError> {
        self.breach.clone().map_or(Ok(()), |breach| Err(broken(breach)))
    }

    pub(super) fn get(&mut self, slot: SlotId) -> Result<&mut Slot, ModelError> {
        self.place(slot)?
            .as_mut()
            .ok_or_else(|| broken(format!("{slot:?} is not acquired")))
    }

    pub(super) fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<(), ModelError> {
        let capacity = self.capacity(bucket)?;
        let place = self.place(slot)?;
        if place.is_some() {
            return Err(broken(format!("{slot:?} is held already")));
        }
        *place = Some(Slot {
            bucket,
            capacity,
            ids: Vec::new(),
            sampled: None,
            open_steps: 0,
        });
        self.check_budget()
    }

    pub(super) fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<u64, ModelError> {
        let capacity = self.capacity(bucket)?;
        let held = self.get(slot)?;
        if bucket <= held.bucket {
            return Err(broken(format!("{slot:?} goes from {:?} to {bucket:?}", held.bucket)));
        }
        if crate::count(held.ids.len()) != written {
            return Err(broken(format!(
                "{slot:?} holds {} tokens, not {written}",
                held.ids.len()
            )));
        }
        held.bucket = bucket;
        held.capacity = capacity;
        self.check_budget()?;
        Ok(u64::from(written) * self.limits.kv_bytes_per_token)
    }

    pub(super) fn release(&mut self, slot: SlotId) {
        let breach = match self.place(slot).map(Option::take) {
            Ok(Some(held)) if held.open_steps == 0 => return,
            Ok(Some(_)) => format!("{slot:?} is released while a step uses it"),
            Ok(None) | Err(_) => format!("{slot:?} is released but not held"),
        };
        self.breach.get_or_insert(breach);
    }

    pub(super) fn open(&mut self, slots: &[SlotId]) {
        self.each(slots, |slot| slot.open_steps += 1);
    }

    pub(super) fn close(&mut self, slots: &[SlotId]) {
        self.each(slots, |slot| slot.open_steps -= 1);
    }

    fn each(&mut self, slots: &[SlotId], mut change: impl FnMut(&mut Slot)) {
        for slot in slots {
            if let Ok(held) = self.get(*slot) {
                change(held);
            }
        }
    }

    fn place(&mut self, slot: SlotId) -> Result<&mut Option<Slot>, ModelError> {
        let index = usize::try_from(slot.0).unwrap_or(usize::MAX);
        self.slots
            .get_mut(index)
            .ok_or_else(|| broken(format!("{slot:?} does not exist")))
    }

    fn capacity(&self, bucket: BucketId) -> Result<usize, ModelError> {
        let tokens = self.limits.bucket_tokens.get(usize::from(bucket.0));
        tokens
            .and_then(|tokens| usize::try_from(*tokens).ok())
            .ok_or_else(|| broken(format!("{bucket:?} does not exist")))
    }

    fn check_budget(&self) -> Result<(), ModelError> {
        let held = self.slots.iter().flatten();
        let bytes: u64 = held.map(|slot| self.limits.slot_bytes(slot.bucket)).sum();
        if bytes > self.limits.kv_budget_bytes {
            return Err(broken(format!(
                "slots take {bytes} bytes, the budget is {}",
                self.limits.kv_budget_bytes
            )));
        }
        Ok(())
    }
}

impl Slot {
    pub(super) fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    pub(super) fn write(&mut self, start: u32, ids: &[TokenId]) -> Result<(), ModelError> {
        if ids.is_empty() {
            return Err(broken("an entry without input".into()));
        }
        if crate::count(self.ids.len()) != start {
            return Err(broken(format!(
                "input starts at {start}, the slot holds {}",
                self.ids.len()
            )));
        }
        if self.ids.len() + ids.len() > self.capacity {
            return Err(broken(format!(
                "{} tokens do not fit {}",
                self.ids.len() + ids.len(),
                self.capacity
            )));
        }
        self.ids.extend_from_slice(ids);
        Ok(())
    }

    pub(super) fn sampled(&mut self, step: u64, token: TokenId) {
        self.sampled = Some((step, token));
    }

    pub(super) fn pending(&self, step: u64) -> Result<TokenId, ModelError> {
        match self.sampled {
            Some((sampled_in, token)) if sampled_in + 1 == step => Ok(token),
            _ => Err(broken("the step before sampled nothing for a pending input".into())),
        }
    }
}
