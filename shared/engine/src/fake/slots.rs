//! The fake model's KV: what was written to which slot, and what lies in the block store.

use kr_contract::TokenId;

use super::broken;
use super::tokens::{Cell, Trace};
use crate::model::{BlockId, BucketId, ModelError, ModelLimits, SlotId};

#[derive(Debug)]
pub(super) struct Slots {
    limits: ModelLimits,
    slots: Vec<Option<Slot>>,
    /// The block store.
    blocks: Vec<Option<Vec<Cell>>>,
    /// The first breach of a call that cannot return an error.
    breach: Option<String>,
}

/// One held slot.
#[derive(Debug)]
pub(super) struct Slot {
    bucket: BucketId,
    capacity: usize,
    trace: Trace,
    /// Positions that steps which were waited for have written.
    computed: usize,
    /// The token chosen last, and the step that did.
    sampled: Option<(u64, TokenId)>,
    open_steps: u32,
}

impl Slots {
    pub(super) fn new(limits: &ModelLimits) -> Self {
        Self {
            limits: limits.clone(),
            slots: (0..limits.max_sequences).map(|_| None).collect(),
            blocks: (0..limits.store_blocks).map(|_| None).collect(),
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
        if self.place(slot)?.is_some() {
            return Err(broken(format!("{slot:?} is held already")));
        }
        self.check_budget(bucket)?;
        *self.place(slot)? = Some(Slot {
            bucket,
            capacity,
            trace: Trace::default(),
            computed: 0,
            sampled: None,
            open_steps: 0,
        });
        Ok(())
    }

    /// While a slot moves, its old and its new place are both there.
    pub(super) fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<u64, ModelError> {
        let capacity = self.capacity(bucket)?;
        self.check_budget(bucket)?;
        let held = self.get(slot)?;
        if bucket <= held.bucket {
            return Err(broken(format!("{slot:?} goes from {:?} to {bucket:?}", held.bucket)));
        }
        if crate::count(held.trace.len()) != written {
            return Err(broken(format!(
                "{slot:?} holds {} tokens, not {written}",
                held.trace.len()
            )));
        }
        held.bucket = bucket;
        held.capacity = capacity;
        Ok(self.bytes(written))
    }

    pub(super) fn release(&mut self, slot: SlotId) {
        let breach = match self.place(slot).map(Option::take) {
            Ok(Some(held)) if held.open_steps == 0 => return,
            Ok(Some(_)) => format!("{slot:?} is released while a step uses it"),
            Ok(None) | Err(_) => format!("{slot:?} is released but not held"),
        };
        self.breach.get_or_insert(breach);
    }

    pub(super) fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<u64, ModelError> {
        let mut cells = Vec::new();
        for block in blocks {
            let stored = self.block(*block)?.as_ref();
            cells.extend(stored.ok_or_else(|| broken(format!("{block:?} holds nothing")))?);
        }
        let held = self.get(slot)?;
        if held.trace.len() > 0 {
            return Err(broken(format!("{slot:?} is written already, blocks come first")));
        }
        if cells.len() > held.capacity {
            return Err(broken(format!("{} cached tokens do not fit {slot:?}", cells.len())));
        }
        cells.iter().for_each(|cell| held.trace.append(*cell));
        held.computed = cells.len();
        Ok(self.bytes(crate::count(cells.len())))
    }

    pub(super) fn copy_out(&mut self, slot: SlotId, start: u32, block: BlockId) -> Result<u64, ModelError> {
        let tokens = self.limits.block_tokens;
        let (from, len) = (position(start)?, position(tokens)?);
        let held = self.get(slot)?;
        if !start.is_multiple_of(tokens) || from + len > held.computed {
            return Err(broken(format!("no computed block of {slot:?} starts at {start}")));
        }
        let cells = held.trace.cells(from, len).map(<[Cell]>::to_vec);
        *self.block(block)? = cells;
        Ok(self.bytes(tokens))
    }

    pub(super) fn open(&mut self, slots: &[(SlotId, usize)]) {
        for (slot, _) in slots {
            if let Ok(held) = self.get(*slot) {
                held.open_steps += 1;
            }
        }
    }

    /// A step that left each of `slots` so long is done.
    pub(super) fn close(&mut self, slots: &[(SlotId, usize)]) {
        for (slot, written) in slots {
            if let Ok(held) = self.get(*slot) {
                held.open_steps -= 1;
                held.computed = *written;
            }
        }
    }

    fn place(&mut self, slot: SlotId) -> Result<&mut Option<Slot>, ModelError> {
        let index = usize::try_from(slot.0).unwrap_or(usize::MAX);
        self.slots
            .get_mut(index)
            .ok_or_else(|| broken(format!("{slot:?} does not exist")))
    }

    fn block(&mut self, block: BlockId) -> Result<&mut Option<Vec<Cell>>, ModelError> {
        if self.blocks.is_empty() {
            return Err(ModelError::NoBlockStore);
        }
        let index = usize::try_from(block.0).unwrap_or(usize::MAX);
        self.blocks
            .get_mut(index)
            .ok_or_else(|| broken(format!("{block:?} does not exist")))
    }

    fn capacity(&self, bucket: BucketId) -> Result<usize, ModelError> {
        let tokens = self.limits.bucket_tokens.get(usize::from(bucket.0));
        tokens
            .and_then(|tokens| usize::try_from(*tokens).ok())
            .ok_or_else(|| broken(format!("{bucket:?} does not exist")))
    }

    fn bytes(&self, tokens: u32) -> u64 {
        u64::from(tokens) * self.limits.kv_bytes_per_token
    }

    /// Checks that another slot of `bucket` fits beside those held.
    fn check_budget(&self, bucket: BucketId) -> Result<(), ModelError> {
        let held = self.slots.iter().flatten();
        let held: u64 = held.map(|slot| self.limits.slot_bytes(slot.bucket)).sum();
        let bytes = held + self.limits.slot_bytes(bucket);
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
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn write(&mut self, start: u32, ids: &[TokenId]) -> Result<(), ModelError> {
        let written = self.trace.len();
        if ids.is_empty() {
            return Err(broken("an entry without input".into()));
        }
        if crate::count(written) != start {
            return Err(broken(format!("input starts at {start}, the slot holds {written}")));
        }
        if written + ids.len() > self.capacity {
            return Err(broken(format!(
                "{} tokens do not fit {}",
                written + ids.len(),
                self.capacity
            )));
        }
        ids.iter().for_each(|id| self.trace.push(*id));
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

fn position(tokens: u32) -> Result<usize, ModelError> {
    usize::try_from(tokens).map_err(|_| broken(format!("no slot holds {tokens} tokens")))
}
