//! Which sequences run in which step: a pure state machine. No clock (`now` is an argument), no thread, no model: the
//! loop in [`crate::Engine`] performs what this decides.
//!
//! One turn is [`Scheduler::plan`], the [`SlotAction`]s in order, submit, wait, [`Scheduler::apply`]. With a pipeline depth
//! of 1 the next turn's plan may come before this turn's apply.
//!
//! KV is given out by real use: a sequence starts in the shortest slot that holds what is known of it and grows. Where
//! memory runs out, the newest running sequence is preempted and computed again later; one that was preempted often enough
//! keeps a slot for its whole length, so that everything admitted finishes.

mod action;
mod apply;
mod budget;
mod hold;
mod journal;
mod plan;
mod preempt;
mod save;
mod sequence;
mod start;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use kr_contract::{BlockHash, FinishReason, SequenceId};

use crate::estimate::StepEstimate;
use crate::frame::{Finish, Load, SequenceUpdate};
use crate::model::ModelLimits;
use crate::prefix_cache::PrefixCache;
use crate::{Reject, SequenceRequest};

pub use action::SlotAction;
pub use apply::{Applied, OutputMismatch};
use budget::{KvBudget, SlotPool};
use hold::Promises;
use plan::OpenStep;
use sequence::{Sequence, Turn};

/// What the scheduler may put into one step, and how much it may hold. A 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Input tokens of one step, decodes and prefill together.
    pub max_step_tokens: u32,
    /// Sequences that may hold a slot; the model's limit and `max_step_tokens` bound it as well.
    pub max_sequences: u32,
    /// Sequences that may wait for a slot.
    pub max_waiting: u32,
    /// How long a step may take while sequences decode: prompts share in it only as far as that allows. Where twice the
    /// time of the decodes alone is longer, that counts: prompts then take half of the step. `None` is no bound.
    pub decode_step_target: Option<Duration>,
    /// Times a sequence may lose its slot to older ones. From then on it keeps a slot for its whole length.
    pub max_preemptions: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_step_tokens: 512,
            max_sequences: 64,
            max_waiting: 1024,
            // Ten tokens a second is about twice as fast as people read.
            decode_step_target: Some(Duration::from_millis(100)),
            max_preemptions: 3,
        }
    }
}

/// How large a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepShape {
    /// Sequences that add one generated token.
    pub decodes: u32,
    /// Tokens of prompts.
    pub prefill_tokens: u32,
}

/// The state machine; see the module.
#[derive(Debug)]
pub struct Scheduler {
    limits: ModelLimits,
    max_step_tokens: u32,
    max_waiting: u32,
    max_preemptions: u32,
    decode_step_target: Option<Duration>,
    budget: KvBudget,
    slots: SlotPool,
    cache: PrefixCache,
    promises: Promises,
    waiting: BTreeMap<Turn, Sequence>,
    /// Hold a slot; in the order they got it.
    running: Vec<Sequence>,
    /// Ended, but an open step still uses their slot.
    leaving: Vec<Sequence>,
    /// Planned and not applied, oldest first.
    open: VecDeque<OpenStep>,
    actions: VecDeque<SlotAction>,
    arrivals: u64,
    /// Slots given back so far.
    releases: u64,
    /// What `releases` was when the model had no memory for a slot.
    starved_at: Option<u64>,
    step: u64,
}

impl Scheduler {
    /// Returns a scheduler for a freshly loaded model.
    #[must_use]
    pub fn new(config: SchedulerConfig, limits: ModelLimits) -> Self {
        // Each running sequence may need one token of every step, or a decode would starve.
        let max_step_tokens = config.max_step_tokens.max(1);
        let max_sequences = config
            .max_sequences
            .max(1)
            .min(limits.max_sequences)
            .min(max_step_tokens);
        Self {
            max_step_tokens,
            max_waiting: config.max_waiting.max(1),
            max_preemptions: config.max_preemptions,
            decode_step_target: config.decode_step_target,
            budget: KvBudget::new(limits.kv_budget_bytes),
            slots: SlotPool::new(max_sequences),
            cache: PrefixCache::new(limits.store_blocks),
            promises: Promises::default(),
            waiting: BTreeMap::new(),
            running: Vec::new(),
            leaving: Vec::new(),
            open: VecDeque::new(),
            actions: VecDeque::new(),
            arrivals: 0,
            releases: 0,
            starved_at: None,
            step: 0,
            limits,
        }
    }

    /// Goes on numbering after `step`, which the model has run already.
    pub(crate) fn number_after(&mut self, step: u64) {
        self.step = step;
    }

    /// Takes a sequence; it waits until a slot that holds its known tokens is free.
    ///
    /// # Errors
    /// See [`Reject`]; nothing has changed.
    pub fn admit(&mut self, request: SequenceRequest, now: Instant) -> Result<(), Reject> {
        self.check(&request)?;
        let turn = Turn {
            priority: Reverse(request.priority),
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        let sequence = Sequence::new(request, turn, &self.limits, now);
        self.waiting.insert(turn, sequence);
        Ok(())
    }

    fn check(&self, request: &SequenceRequest) -> Result<(), Reject> {
        let tokens = request.known_tokens();
        let context_tokens = self.limits.context_tokens;
        if request.prompt.is_empty() {
            return Err(Reject::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(Reject::NothingToGenerate);
        }
        if tokens >= context_tokens {
            return Err(Reject::ContextExceeded { tokens, context_tokens });
        }
        let total = tokens.saturating_add(request.max_tokens).min(context_tokens);
        let needed_bytes = self
            .limits
            .bucket_for(total)
            .map_or(u64::MAX, |bucket| self.limits.slot_bytes(bucket));
        if needed_bytes > self.limits.kv_budget_bytes {
            return Err(Reject::KvExceeded {
                needed_bytes,
                budget_bytes: self.limits.kv_budget_bytes,
            });
        }
        if self.live().any(|sequence| sequence.id == request.id) {
            return Err(Reject::DuplicateId(request.id));
        }
        if crate::count(self.waiting.len()) >= self.max_waiting {
            return Err(Reject::TooManyWaiting {
                max_waiting: self.max_waiting,
            });
        }
        Ok(())
    }

    /// Ends a sequence at once: no later plan holds it. Returns `None` where no live sequence has this id.
    pub fn cancel(&mut self, id: SequenceId, now: Instant) -> Option<SequenceUpdate> {
        let turn = self.live().find(|sequence| sequence.id == id)?.turn;
        self.end(turn, FinishReason::Cancelled, None, now)
    }

    /// Ends every sequence for the same reason.
    pub fn end_all(&mut self, reason: FinishReason, message: Option<&str>, now: Instant) -> Vec<SequenceUpdate> {
        let turns: Vec<Turn> = self.live().map(|sequence| sequence.turn).collect();
        let end = |turn| self.end(turn, reason, message.map(ToOwned::to_owned), now);
        turns.into_iter().filter_map(end).collect()
    }

    /// Returns the prefix blocks that can be hit, and those that no longer can, since the last call.
    pub fn take_block_changes(&mut self) -> (Vec<BlockHash>, Vec<BlockHash>) {
        self.cache.take_changes()
    }

    /// Reports all prefix blocks once more, to a listener that knows none.
    pub fn restate_blocks(&mut self) {
        self.cache.restate();
    }

    /// Returns whether no sequence is live and no step open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.open.is_empty()
    }

    /// Returns what is held now.
    #[must_use]
    pub fn load(&self) -> Load {
        let prefilling = self.running.iter().filter(|sequence| sequence.is_prefilling());
        Load {
            running: crate::count(self.running.len()),
            waiting: crate::count(self.waiting.len()),
            prefilling: crate::count(prefilling.count()),
            pending_prefill_tokens: self.unplanned_prefill_tokens() + self.open_prefill_tokens(),
            kv_used_bytes: self.budget.used_bytes(),
            kv_budget_bytes: self.limits.kv_budget_bytes,
            cached_blocks: self.cache.used_blocks(),
            store_blocks: self.cache.store_blocks(),
        }
    }

    /// Returns the shape of the next step to end: the oldest open one's, or else the largest that the next plan can have
    /// with the sequences there are. `None` where there is nothing to run.
    #[must_use]
    pub fn next_shape(&self, estimate: &StepEstimate) -> Option<StepShape> {
        if let Some(step) = self.open.front() {
            return Some(step.shape);
        }
        let prompts = u32::try_from(self.unplanned_prefill_tokens()).unwrap_or(u32::MAX);
        let decodes = crate::count(self.running.iter().filter(|s| !s.is_prefilling()).count());
        let room = self.max_step_tokens.saturating_sub(decodes);
        let prefill_tokens = prompts.min(room.min(self.prefill_room(decodes, estimate)));
        let shape = StepShape {
            decodes,
            prefill_tokens,
        };
        (shape != StepShape::default()).then_some(shape)
    }

    fn unplanned_prefill_tokens(&self) -> u64 {
        self.live().map(|sequence| u64::from(sequence.prefill_left())).sum()
    }

    fn open_prefill_tokens(&self) -> u64 {
        self.open.iter().map(|step| u64::from(step.shape.prefill_tokens)).sum()
    }

    fn live(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.values().chain(&self.running)
    }

    /// Takes a live sequence out and says goodbye to it; its slot goes when no open step uses it.
    fn end(
        &mut self,
        turn: Turn,
        reason: FinishReason,
        message: Option<String>,
        now: Instant,
    ) -> Option<SequenceUpdate> {
        let mut sequence = self.waiting.remove(&turn).or_else(|| {
            let index = self.running.iter().position(|sequence| sequence.turn == turn)?;
            Some(self.running.remove(index))
        })?;
        sequence.is_complete = matches!(reason, FinishReason::Stop | FinishReason::Length);
        let update = SequenceUpdate {
            id: sequence.id,
            start_index: sequence.generated(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            finish: Some(Finish {
                reason,
                message,
                timings: sequence.journal.timings(now),
            }),
        };
        self.withdraw_promises(&sequence);
        self.leaving.push(sequence);
        self.free_left();
        Some(update)
    }

    /// Frees the slots of ended sequences that no open step uses any more; what one that came to its end has computed goes to
    /// the prefix cache first.
    fn free_left(&mut self) {
        let (used, unused) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition(|sequence| sequence.open_steps > 0);
        self.leaving = used;
        let unused: Vec<Sequence> = unused;
        for mut sequence in unused {
            if sequence.is_complete {
                self.save_all(&mut sequence);
            }
            self.free_lease(&sequence);
        }
    }

    fn running_by_id(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.id == id)
    }
}
