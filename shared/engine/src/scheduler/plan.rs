//! What goes into the next step: every decode, then prompts in turn, as far as the token budget and the decodes' patience go.

use std::time::Instant;

use kr_contract::SequenceId;

use super::sequence::{Sequence, Turn};
use super::start::Start;
use super::{Scheduler, StepShape};
use crate::estimate::StepEstimate;
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
    /// Positions it writes.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) samples: bool,
    pub(super) scores: bool,
    pub(super) prefill_tokens: u32,
}

impl Scheduler {
    /// Decides the next step, or returns `None` where nothing can run now. The plan counts as submitted: it has to be
    /// applied, or failed, in the order of planning. `estimate` says how long steps take.
    pub fn plan(&mut self, now: Instant, estimate: &StepEstimate) -> Option<StepPlan> {
        let mut draft = self.draft(now, estimate);
        // Where those preempted were all there was, no step is made yet, and they may start again.
        while draft.is_pressed && draft.entries.is_empty() && self.open.is_empty() {
            draft = self.draft(now, estimate);
        }
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

    fn draft(&mut self, now: Instant, estimate: &StepEstimate) -> Draft {
        let mut draft = Draft {
            is_pressed: self.make_room(),
            room: self.max_step_tokens,
            ..Draft::default()
        };
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.is_prefilling()) {
            draft.add(sequence, &self.limits);
        }
        draft.room = draft.room.min(self.prefill_room(draft.shape.decodes, estimate));
        self.plan_prefill(&mut draft, now);
        draft
    }

    /// Gives the room left to prompts in turn, those that wait for a slot among them.
    fn plan_prefill(&mut self, draft: &mut Draft, now: Instant) {
        let prefilling = self.running.iter().enumerate().filter(|(_, s)| s.is_prefilling());
        let mut turns: Vec<(Turn, usize)> = prefilling.map(|(index, s)| (s.turn, index)).collect();
        turns.sort_unstable();
        let mut turns = turns.into_iter().peekable();
        let mut may_start = !draft.is_pressed;
        let mut passed = None;
        while draft.room > 0 {
            let waiting = if may_start { self.waiting_after(passed) } else { None };
            let index = match (turns.peek(), waiting) {
                (None, None) => break,
                (Some((turn, index)), waiting) if waiting.is_none_or(|waiting| *turn < waiting) => {
                    let index = *index;
                    turns.next();
                    index
                }
                (_, None) => break,
                (_, Some(turn)) => match self.start(turn, now) {
                    Start::Started(index) => index,
                    Start::Held => {
                        passed = Some(turn);
                        continue;
                    }
                    Start::NoRoom => {
                        may_start = false;
                        continue;
                    }
                },
            };
            if let Some(sequence) = self.running.get_mut(index) {
                draft.add(sequence, &self.limits);
            }
        }
    }

    /// Returns how many prompt tokens may join `decodes` decodes in a step: as many as keep it within the target, or within
    /// twice its time without them where that is longer. One block at least, so that prompts always get on.
    pub(super) fn prefill_room(&self, decodes: u32, estimate: &StepEstimate) -> u32 {
        let Some(target) = self.decode_step_target.filter(|_| decodes > 0) else {
            return u32::MAX;
        };
        let alone = estimate.expect(StepShape {
            decodes,
            prefill_tokens: 0,
        });
        let tokens = estimate.prefill_within(target.saturating_sub(alone).max(alone));
        let block = self.limits.block_tokens.max(1);
        (tokens - tokens % block).max(block)
    }
}

/// A step in the making.
#[derive(Debug, Default)]
struct Draft {
    /// Somebody was preempted for it, or waits for memory.
    is_pressed: bool,
    room: u32,
    entries: Vec<PlanEntry>,
    open: Vec<OpenEntry>,
    shape: StepShape,
}

impl Draft {
    /// Adds what `sequence` can run now, where its slot holds that.
    fn add(&mut self, sequence: &mut Sequence, limits: &ModelLimits) {
        let (Some(next), Some(lease)) = (sequence.next_input(self.room), sequence.lease) else {
            return;
        };
        if limits.bucket_for(next.end()).is_none_or(|bucket| bucket > lease.bucket) {
            return;
        }
        let is_prefill = sequence.is_prefilling();
        let prefill_tokens = if is_prefill { next.tokens() } else { 0 };
        self.room -= next.tokens();
        self.shape.decodes += u32::from(!is_prefill);
        self.shape.prefill_tokens += prefill_tokens;
        self.open.push(OpenEntry {
            turn: sequence.turn,
            sequence: sequence.id,
            start: next.start,
            end: next.end(),
            samples: next.sample.is_some(),
            scores: next.score.is_some(),
            prefill_tokens,
        });
        sequence.plan(&next);
        self.entries.push(PlanEntry {
            sequence: sequence.id,
            slot: lease.slot,
            start: next.start,
            input: next.input,
            sample: next.sample,
            score: next.score,
        });
    }
}
