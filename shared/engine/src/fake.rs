//! A model without arrays. Each token is a hash of every id before it in the slot, so that mixing up slots, positions,
//! chunks, cached blocks or batch neighbours shows as a wrong token; every call is checked against the contract of
//! [`crate::model`]. Its steps take a settable time, so that it can stand in for a real model in load tests of everything
//! around it.

mod slots;
mod tokens;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use kr_contract::{SamplingParams, TokenId};

use crate::model::{
    BlockId, BucketId, CopyCost, Input, Logprobs, Model, ModelError, ModelLimits, PlanEntry, Sample, SampleError,
    Sampled, Score, Scored, SlotId, StepOutput, StepPlan, TokenHistory,
};

use slots::Slots;
use tokens::Trace;

/// What a [`FakeModel`] pretends to be.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeModelConfig {
    /// What it can hold.
    pub limits: ModelLimits,
    /// Tokens are below this; at least 2.
    pub vocabulary: u32,
    /// The token that is chosen with `end_probability`, and never otherwise.
    pub end_token: TokenId,
    /// Chance that a token is the end token, from 0 (never) to 1.
    pub end_probability: f64,
    /// How long a step takes.
    pub step_time: StepTime,
    /// Whether that time passes.
    pub pace: Pace,
    /// What goes wrong.
    pub faults: FakeFaults,
}

impl Default for FakeModelConfig {
    fn default() -> Self {
        Self {
            limits: ModelLimits {
                context_tokens: 2048,
                max_sequences: 32,
                bucket_tokens: vec![256, 512, 1024, 2048],
                kv_bytes_per_token: 1024,
                kv_budget_bytes: 32 * 2048 * 1024,
                block_tokens: 16,
                store_blocks: 0,
                pipeline_depth: 0,
            },
            vocabulary: 32_000,
            end_token: 2,
            end_probability: 0.0,
            step_time: StepTime::default(),
            pace: Pace::Immediate,
            faults: FakeFaults::default(),
        }
    }
}

impl FakeModelConfig {
    /// Returns the first `n` tokens that follow `prompt`: what any schedule must produce. Ends with the end token, where
    /// that comes earlier and is not ignored.
    #[must_use]
    pub fn expected_tokens(&self, prompt: &[TokenId], params: &SamplingParams, n: usize) -> Vec<TokenId> {
        tokens::expected(self, prompt, params, n)
    }

    /// Returns the log probabilities of a prompt's tokens but the first, with `top` likely ones beside each: what any
    /// schedule must report.
    #[must_use]
    pub fn expected_prompt_logprobs(&self, prompt: &[TokenId], top: u32) -> Vec<Logprobs> {
        let mut trace = Trace::default();
        prompt.iter().for_each(|id| trace.push(*id));
        let cells = trace.cells(0, trace.len()).unwrap_or_default();
        let targets = prompt.iter().skip(1);
        cells
            .iter()
            .zip(targets)
            .map(|(cell, target)| tokens::score(self, *cell, *target, top))
            .collect()
    }
}

/// How long a step takes: a sum of three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepTime {
    /// Of every step.
    pub base: Duration,
    /// For each decoded token.
    pub per_decode_token: Duration,
    /// For each prefilled token.
    pub per_prefill_token: Duration,
}

impl StepTime {
    fn of(self, plan: &StepPlan) -> Duration {
        let is_decode = |entry: &&PlanEntry| entry.input.len() == 1 && entry.sample.is_some();
        let decodes = crate::count(plan.entries.iter().filter(is_decode).count());
        let prefill = crate::count(plan.input_tokens()).saturating_sub(decodes);
        self.base + self.per_decode_token * decodes + self.per_prefill_token * prefill
    }
}

/// Whether a step's time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Steps end at once.
    Immediate,
    /// [`Model::wait`] sleeps until the step would have ended; open steps run one after the other, as on a device.
    RealTime,
}

/// What goes wrong, for tests of what happens then.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FakeFaults {
    /// Waiting for this step fails as a backend would.
    pub fail_wait_at_step: Option<u64>,
    /// Submitting this step fails for want of memory.
    pub fail_submit_at_step: Option<u64>,
    /// Waiting for this step panics.
    pub panic_at_step: Option<u64>,
    /// A sequence that holds this token gets logits that are not finite.
    pub not_finite_after: Option<TokenId>,
    /// No slot of this bucket can be had, by acquiring or by promotion.
    pub no_memory_for_bucket: Option<BucketId>,
    /// Every so many-th call that takes memory (acquire, promote, a copy) finds none.
    pub no_memory_every: Option<u32>,
}

/// The model; see the module.
#[derive(Debug)]
pub struct FakeModel {
    config: FakeModelConfig,
    slots: Slots,
    last_step: u64,
    open: u32,
    /// Calls so far that took memory, or would have.
    memory_calls: u32,
    busy_until: Option<Instant>,
}

/// A submitted step of a [`FakeModel`].
#[derive(Debug)]
pub struct FakeTicket {
    step: u64,
    output: StepOutput,
    /// The step's slots, and how many positions each holds after it.
    slots: Vec<(SlotId, usize)>,
    ready_at: Option<Instant>,
}

impl FakeModel {
    /// Returns a model with all slots free.
    #[must_use]
    pub fn new(config: FakeModelConfig) -> Self {
        Self {
            slots: Slots::new(&config.limits),
            config,
            last_step: 0,
            open: 0,
            memory_calls: 0,
            busy_until: None,
        }
    }

    /// Returns how many slots are held.
    #[must_use]
    pub fn held_slots(&self) -> usize {
        self.slots.held()
    }

    fn check_plan(&self, plan: &StepPlan) -> Result<(), ModelError> {
        if plan.step != self.last_step + 1 {
            return Err(broken(format!("step {} follows step {}", plan.step, self.last_step)));
        }
        if self.open > self.config.limits.pipeline_depth {
            return Err(broken(format!("{} steps are open already", self.open)));
        }
        if plan.entries.is_empty() {
            return Err(broken("a step without entries".into()));
        }
        for (index, entry) in plan.entries.iter().enumerate() {
            let twice = |other: &PlanEntry| other.sequence == entry.sequence || other.slot == entry.slot;
            if plan.entries.iter().take(index).any(twice) {
                return Err(broken(format!(
                    "sequence {} or its slot is planned twice",
                    entry.sequence
                )));
            }
        }
        Ok(())
    }

    fn run_entry(&mut self, step: u64, entry: &PlanEntry, output: &mut StepOutput) -> Result<usize, ModelError> {
        let slot = self.slots.get(entry.slot)?;
        let pending;
        let ids = match &entry.input {
            Input::Tokens(ids) => ids.as_slice(),
            Input::Pending => {
                pending = [slot.pending(step)?];
                &pending
            }
        };
        let before = slot.trace().len();
        slot.write(entry.start, ids)?;
        let trace = slot.trace();
        let written = trace.len();
        if let Some(score) = &entry.score {
            let cells = trace.cells(before, ids.len()).unwrap_or_default();
            output.scored.push(Scored {
                sequence: entry.sequence,
                logprobs: scores(&self.config, cells, score)?,
            });
        }
        if let Some(sample) = &entry.sample {
            check_history(entry, sample)?;
            let finite = !self.config.faults.not_finite_after.is_some_and(|id| trace.contains(id));
            let token = tokens::next(&self.config, trace, sample);
            slot.sampled(step, token);
            output.sampled.push(Sampled {
                sequence: entry.sequence,
                token: if finite { Ok(token) } else { Err(SampleError::NotFinite) },
                logprobs: logprobs(&self.config, token, sample),
            });
        }
        Ok(written)
    }
}

fn scores(config: &FakeModelConfig, cells: &[tokens::Cell], score: &Score) -> Result<Vec<Logprobs>, ModelError> {
    if score.targets.is_empty() || score.targets.len() > cells.len() || score.targets.len() + 1 < cells.len() {
        let (targets, inputs) = (score.targets.len(), cells.len());
        return Err(broken(format!("{targets} targets to score for {inputs} input tokens")));
    }
    let targets = cells.iter().zip(&score.targets);
    Ok(targets
        .map(|(cell, target)| tokens::score(config, *cell, *target, score.top))
        .collect())
}

fn check_history(entry: &PlanEntry, sample: &Sample) -> Result<(), ModelError> {
    let needed = TokenHistory::is_needed(&sample.params);
    if needed != sample.history.is_some() {
        return Err(broken(format!(
            "sequence {} has penalties: {needed}, but a history: {}",
            entry.sequence, !needed
        )));
    }
    if needed && entry.input == Input::Pending {
        let sequence = entry.sequence;
        return Err(broken(format!(
            "sequence {sequence} has penalties and is planned on an unread token"
        )));
    }
    Ok(())
}

fn cost(bytes: u64) -> CopyCost {
    CopyCost {
        bytes,
        elapsed: Duration::ZERO,
    }
}

fn broken(detail: String) -> ModelError {
    ModelError::Contract(detail)
}

/// Returns made-up log probabilities: the chosen token first, then its neighbours in the vocabulary.
fn logprobs(config: &FakeModelConfig, token: TokenId, sample: &Sample) -> Option<Logprobs> {
    let n = sample.params.logprobs?;
    let top = (0..n).zip([-0.5, -1.5, -2.5, -3.5, -4.5].into_iter().cycle());
    Some(Logprobs {
        chosen: -0.5,
        top: top
            .map(|(i, value)| (token.wrapping_add(i) % config.vocabulary, value))
            .collect(),
    })
}

impl Model for FakeModel {
    type Ticket = FakeTicket;

    fn limits(&self) -> &ModelLimits {
        &self.config.limits
    }

    fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<(), ModelError> {
        self.check_memory(Some(bucket))?;
        self.slots.acquire(slot, bucket)
    }

    fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<CopyCost, ModelError> {
        self.check_memory(Some(bucket))?;
        self.slots.promote(slot, bucket, written).map(cost)
    }

    fn release(&mut self, slot: SlotId) {
        self.slots.release(slot);
    }

    fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<CopyCost, ModelError> {
        self.check_memory(None)?;
        self.slots.copy_in(slot, blocks).map(cost)
    }

    fn copy_out(&mut self, slot: SlotId, start: u32, block: BlockId) -> Result<CopyCost, ModelError> {
        self.check_memory(None)?;
        self.slots.copy_out(slot, start, block).map(cost)
    }

    fn submit(&mut self, plan: &StepPlan) -> Result<FakeTicket, ModelError> {
        self.slots.check()?;
        self.check_plan(plan)?;
        if self.config.faults.fail_submit_at_step == Some(plan.step) {
            return Err(ModelError::OutOfMemory("the fake model was told to fail".into()));
        }
        let mut output = StepOutput::default();
        let mut slots = Vec::new();
        for entry in &plan.entries {
            let written = self.run_entry(plan.step, entry, &mut output)?;
            slots.push((entry.slot, written));
        }
        self.slots.open(&slots);
        self.last_step = plan.step;
        self.open += 1;
        Ok(FakeTicket {
            step: plan.step,
            output,
            slots,
            ready_at: self.schedule(plan),
        })
    }

    fn wait(&mut self, ticket: FakeTicket) -> Result<StepOutput, ModelError> {
        let faults = &self.config.faults;
        if let Some(ready_at) = ticket.ready_at {
            sleep_until(ready_at);
        }
        if faults.fail_wait_at_step == Some(ticket.step) {
            return Err(ModelError::Backend("the fake model was told to fail".into()));
        }
        #[expect(clippy::panic, reason = "a fault that tests ask for")]
        if faults.panic_at_step == Some(ticket.step) {
            panic!("the fake model was told to panic");
        }
        if u64::from(self.open) != self.last_step + 1 - ticket.step {
            return Err(broken(format!("step {} is not the oldest open one", ticket.step)));
        }
        self.slots.close(&ticket.slots);
        self.open -= 1;
        Ok(ticket.output)
    }
}

impl FakeModel {
    fn check_memory(&mut self, bucket: Option<BucketId>) -> Result<(), ModelError> {
        self.memory_calls = self.memory_calls.wrapping_add(1);
        let faults = &self.config.faults;
        let is_due = |every: u32| self.memory_calls.is_multiple_of(every.max(1));
        let refused = bucket.is_some() && faults.no_memory_for_bucket == bucket;
        if refused || faults.no_memory_every.is_some_and(is_due) {
            return Err(ModelError::OutOfMemory("the fake model was told to fail".into()));
        }
        Ok(())
    }

    fn schedule(&mut self, plan: &StepPlan) -> Option<Instant> {
        if self.config.pace == Pace::Immediate {
            return None;
        }
        let now = Instant::now();
        let begins = self.busy_until.map_or(now, |busy| busy.max(now));
        self.busy_until = Some(begins + self.config.step_time.of(plan));
        self.busy_until
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine's thread is no runtime thread, and this stands for the time a kernel takes"
)]
fn sleep_until(instant: Instant) {
    std::thread::sleep(instant.saturating_duration_since(Instant::now()));
}
