//! What goes into the next step: every decode, then prompts in turn, as far as the token budget goes.

use std::time::Instant;

use kr_contract::{FinishReason, SequenceId};

use super::sequence::{Lease, Sequence, Turn};
use super::{Scheduler, SlotAction, StepShape};
use crate::frame::SequenceUpdate;
use crate::model::{ModelLimits, PlanEntry, StepPlan};

/// A planned step whose result was not applied yet.
#[derive(Debug)]
pub(super) struct OpenStep {
    pub(super) step: u64,
    pub(super) entries: Vec<OpenEntry>,
    pub(super) shape: StepShape,
}

/// A planned entry, without its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenEntry {
    pub(super) turn: Turn,
    pub(super) sequence: SequenceId,
    pub(super) samples: bool,
    pub(super) prefill_tokens: u32,
}

impl Scheduler {
    /// Decides the next step, or returns `None` where nothing can run now. The plan counts as submitted: it has to be
    /// applied, or failed, in the order of planning.
    pub fn plan(&mut self, now: Instant) -> Option<StepPlan> {
        let mut draft = Draft {
            room: self.max_step_tokens,
            ..Draft::default()
        };
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.is_prefilling()) {
            draft.add(sequence, &self.limits, &mut self.actions);
        }
        self.plan_prefill(&mut draft, now);
        if draft.entries.is_empty() {
            return None;
        }
        self.step += 1;
        self.open.push_back(OpenStep {
            step: self.step,
            entries: draft.open,
            shape: draft.shape,
        });
        Some(StepPlan {
            step: self.step,
            entries: draft.entries,
        })
    }

    /// Gives the room left to prompts in turn, those that wait for a slot among them.
    fn plan_prefill(&mut self, draft: &mut Draft, now: Instant) {
        let prefilling = self.running.iter().enumerate().filter(|(_, s)| s.is_prefilling());
        let mut turns: Vec<(Turn, usize)> = prefilling.map(|(index, s)| (s.turn, index)).collect();
        turns.sort_unstable();
        let mut turns = turns.into_iter().peekable();
        let mut may_start = true;
        while draft.room > 0 {
            let waiting = self.waiting.keys().next().filter(|_| may_start);
            let index = match (turns.peek(), waiting) {
                (None, None) => break,
                (Some((turn, index)), waiting) if waiting.is_none_or(|waiting| turn < waiting) => {
                    let index = *index;
                    turns.next();
                    index
                }
                _ => match self.start_next(now) {
                    Some(index) => index,
                    None => {
                        may_start = false;
                        continue;
                    }
                },
            };
            if let Some(sequence) = self.running.get_mut(index) {
                draft.add(sequence, &self.limits, &mut self.actions);
            }
        }
    }

    /// Gives the first waiting sequence a slot and returns its index among the running ones. Where there is no slot or no
    /// KV for it, those behind it wait too: a small one that slipped past could keep a large one out for ever.
    fn start_next(&mut self, now: Instant) -> Option<usize> {
        let (_, sequence) = self.waiting.first_key_value()?;
        let (first, longest) = sequence.buckets(&self.limits)?;
        let reserved_bytes = self.limits.slot_bytes(longest);
        if self.slots.is_empty() || !self.budget.fits(reserved_bytes) {
            return None;
        }
        let slot = self.slots.lease()?;
        self.budget.reserve(reserved_bytes);
        let (_, mut sequence) = self.waiting.pop_first()?;
        sequence.lease = Some(Lease {
            slot,
            bucket: first,
            reserved_bytes,
        });
        sequence.journal.started(now);
        self.actions.push(SlotAction::Acquire {
            sequence: sequence.id,
            slot,
            bucket: first,
        });
        self.running.push(sequence);
        Some(self.running.len() - 1)
    }

    /// Ends the sequence whose slot action had no memory, and takes it out of the plan that was just made.
    pub fn slot_failed(
        &mut self,
        action: SlotAction,
        plan: &mut StepPlan,
        message: String,
        now: Instant,
    ) -> Option<SequenceUpdate> {
        let (SlotAction::Acquire { sequence: id, .. } | SlotAction::Promote { sequence: id, .. }) = action else {
            return None;
        };
        let step = self.open.back_mut()?;
        let index = step.entries.iter().position(|entry| entry.sequence == id)?;
        let entry = step.entries.remove(index);
        let is_decode = entry.prefill_tokens == 0;
        step.shape.decodes -= u32::from(is_decode);
        step.shape.prefill_tokens -= entry.prefill_tokens;
        plan.entries.retain(|entry| entry.sequence != id);
        if plan.entries.is_empty() {
            self.open.pop_back();
            self.step -= 1;
        }
        let sequence = self.running.iter_mut().find(|sequence| sequence.turn == entry.turn)?;
        sequence.open_steps -= 1;
        if let SlotAction::Acquire { slot, .. } = action
            && let Some(lease) = sequence.lease.take()
        {
            // The model never gave this slot away, so it must not be told to release it.
            self.budget.free(lease.reserved_bytes);
            self.slots.free(slot);
        }
        self.end(entry.turn, FinishReason::Error, Some(message), now)
    }
}

/// A step in the making.
#[derive(Debug, Default)]
struct Draft {
    room: u32,
    entries: Vec<PlanEntry>,
    open: Vec<OpenEntry>,
    shape: StepShape,
}

impl Draft {
    /// Adds what `sequence` can run now, in a longer slot where it needs one.
    fn add(&mut self, sequence: &mut Sequence, limits: &ModelLimits, actions: &mut Vec<SlotAction>) {
        let (Some(next), Some(mut lease)) = (sequence.next_input(self.room), sequence.lease) else {
            return;
        };
        let Some(bucket) = limits.bucket_for(next.end()) else {
            return;
        };
        if bucket > lease.bucket {
            lease.bucket = bucket;
            actions.push(SlotAction::Promote {
                sequence: sequence.id,
                slot: lease.slot,
                bucket,
                written: next.start,
            });
            sequence.lease = Some(lease);
        }
        let is_prefill = sequence.is_prefilling();
        let prefill_tokens = if is_prefill { next.tokens() } else { 0 };
        self.room -= next.tokens();
        self.shape.decodes += u32::from(!is_prefill);
        self.shape.prefill_tokens += prefill_tokens;
        self.open.push(OpenEntry {
            turn: sequence.turn,
            sequence: sequence.id,
            samples: next.sample.is_some(),
            prefill_tokens,
        });
        sequence.plan(&next);
        self.entries.push(PlanEntry {
            sequence: sequence.id,
            slot: lease.slot,
            start: next.start,
            input: next.input,
            sample: next.sample,
            score: None,
        });
    }
}
