//! What is to be done with slots and blocks, and what follows when it was done or when the model had no memory for it.

use std::time::Instant;

use kr_contract::{FinishReason, SequenceId};

use super::Scheduler;
use super::sequence::Turn;
use crate::frame::SequenceUpdate;
use crate::model::{BlockId, BucketId, CopyCost, SlotId, StepPlan};

/// Times in a row that the model may have no memory for a sequence's slot although no other slot is held.
const MEMORY_ATTEMPTS: u32 = 3;

/// What to do with a slot or a block; in this order, before the plan is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotAction {
    /// [`Model::acquire`](crate::model::Model::acquire).
    Acquire {
        /// For whom.
        sequence: SequenceId,
        /// Which slot.
        slot: SlotId,
        /// Its first capacity.
        bucket: BucketId,
    },
    /// [`Model::promote`](crate::model::Model::promote). A step that is still open may use the slot: the copy comes after it.
    Promote {
        /// For whom.
        sequence: SequenceId,
        /// Which slot.
        slot: SlotId,
        /// Its next capacity.
        bucket: BucketId,
        /// Positions below this are kept.
        written: u32,
    },
    /// [`Model::copy_in`](crate::model::Model::copy_in), right after the slot was acquired.
    CopyIn {
        /// For whom.
        sequence: SequenceId,
        /// Which slot.
        slot: SlotId,
        /// Cached blocks from the start of the sequence.
        blocks: Vec<BlockId>,
    },
    /// [`Model::copy_out`](crate::model::Model::copy_out). Steps that are done have written the block's positions.
    CopyOut {
        /// From which slot.
        slot: SlotId,
        /// Position of the block's first token.
        start: u32,
        /// Where it goes.
        block: BlockId,
    },
    /// [`Model::release`](crate::model::Model::release). No open step uses the slot.
    Release {
        /// Which slot.
        slot: SlotId,
    },
}

impl Scheduler {
    /// Takes the next action decided so far; perform it and say [`Self::slot_done`] or [`Self::slot_failed`] before taking
    /// the next one, and perform all of them before the next submit.
    pub fn next_slot_action(&mut self) -> Option<SlotAction> {
        self.actions.pop_front()
    }

    /// Notes that an action was performed, and what it cost.
    pub fn slot_done(&mut self, action: &SlotAction, cost: CopyCost) {
        match action {
            SlotAction::Acquire { sequence, .. } => {
                if let Some(sequence) = self.running_by_id(*sequence) {
                    sequence.memory_failures = 0;
                }
            }
            SlotAction::Promote { sequence, .. } => self.copied(*sequence, cost),
            SlotAction::CopyIn { sequence, blocks, .. } => {
                self.cache.unpin(blocks);
                self.copied(*sequence, cost);
            }
            SlotAction::CopyOut { block, .. } => {
                if let Some(name) = self.cache.written(*block) {
                    self.promises.settle(name);
                }
            }
            SlotAction::Release { .. } => {}
        }
    }

    /// Notes that the model had no memory for an action; whom it concerns leaves the plan that was just made. It is computed
    /// later, when others have given memory back; a sequence for which there is none although nobody else holds any
    /// ends with an error after a few attempts, and that is returned.
    pub fn slot_failed(
        &mut self,
        action: &SlotAction,
        plan: &mut StepPlan,
        message: String,
        now: Instant,
    ) -> Option<SequenceUpdate> {
        match action {
            SlotAction::Acquire { sequence, slot, bucket } => {
                let turn = self.drop_from_plan(*sequence, plan)?;
                // The model never gave this slot away, so it must not be told to release it.
                self.slots.free(*slot);
                self.budget.give_back(self.limits.slot_bytes(*bucket));
                self.drop_copy_in(*sequence);
                self.wait_for_memory(turn, message, now)
            }
            SlotAction::Promote { sequence, .. } => {
                let turn = self.drop_from_plan(*sequence, plan)?;
                // It keeps the room that was made for the move until its slot is released.
                self.preempt(turn);
                None
            }
            SlotAction::CopyIn { sequence, blocks, .. } => {
                self.cache.unpin(blocks);
                self.drop_from_plan(*sequence, plan)?;
                let sequence = self.running_by_id(*sequence)?;
                sequence.copied_to(0);
                sequence.journal.hit(0);
                if let Some(prefix) = &mut sequence.prefix {
                    prefix.reads = false;
                    prefix.saved = 0;
                }
                None
            }
            SlotAction::CopyOut { block, .. } => {
                if let Some(name) = self.cache.lost(*block) {
                    self.promises.settle(name);
                }
                None
            }
            SlotAction::Release { .. } => None,
        }
    }

    fn copied(&mut self, id: SequenceId, cost: CopyCost) {
        if let Some(sequence) = self.running_by_id(id) {
            sequence.journal.copied(cost);
        }
    }

    /// Takes a sequence out of the plan that was just made, and returns its turn. An empty plan counts as never made.
    fn drop_from_plan(&mut self, id: SequenceId, plan: &mut StepPlan) -> Option<Turn> {
        let turn = self.running_by_id(id)?.turn;
        let Some(step) = self.open.back_mut().filter(|step| step.step == plan.step) else {
            return Some(turn);
        };
        if let Some(index) = step.entries.iter().position(|entry| entry.turn == turn) {
            let entry = step.entries.remove(index);
            step.shape.decodes -= u32::from(entry.prefill_tokens == 0);
            step.shape.prefill_tokens -= entry.prefill_tokens;
            plan.entries.retain(|entry| entry.sequence != id);
            self.running_by_id(id)?.unplan(&entry);
        }
        if plan.entries.is_empty() {
            self.open.pop_back();
            self.step -= 1;
        }
        Some(turn)
    }

    /// Takes back the copy into a slot that could not be had.
    fn drop_copy_in(&mut self, id: SequenceId) {
        let is_its = |action: &SlotAction| matches!(action, SlotAction::CopyIn { sequence, .. } if *sequence == id);
        if let Some(index) = self.actions.iter().position(is_its)
            && let Some(SlotAction::CopyIn { blocks, .. }) = self.actions.remove(index)
        {
            self.cache.unpin(&blocks);
        }
    }

    /// Puts a sequence that got no slot back to those that wait. Nobody starts until a slot is released, unless none is
    /// held: then there is nothing to wait for, and it ends after a few attempts.
    fn wait_for_memory(&mut self, turn: Turn, message: String, now: Instant) -> Option<SequenceUpdate> {
        let index = self.running.iter().position(|sequence| sequence.turn == turn)?;
        let mut sequence = self.running.remove(index);
        self.withdraw_promises(&sequence);
        sequence.reset();
        self.starved_at = Some(self.releases);
        let is_alone = self.running.is_empty() && self.leaving.is_empty();
        sequence.memory_failures = if is_alone { sequence.memory_failures + 1 } else { 0 };
        let is_hopeless = sequence.memory_failures >= MEMORY_ATTEMPTS;
        self.waiting.insert(turn, sequence);
        is_hopeless
            .then(|| self.end(turn, FinishReason::Error, Some(message), now))
            .flatten()
    }
}
