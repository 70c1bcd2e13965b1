//! A model that keeps account of its steps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kr_engine::model::{BlockId, BucketId, CopyCost, Model, ModelError, ModelLimits, SlotId, StepOutput, StepPlan};
use kr_kernels::profile::{self, Count, Part};
use kr_model::{LoadedModel, Ticket};

/// One step as the engine's thread saw it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) tokens: usize,
    pub(crate) sampled: usize,
    /// Since the step before was read: planning, frames, commands.
    pub(crate) engine: Duration,
    pub(crate) submit: Duration,
    /// Reading logits and sampling.
    pub(crate) wait: Duration,
    pub(crate) kernels: Vec<(Part, Count)>,
}

/// Filled on the engine's thread.
pub(crate) type Steps = Arc<Mutex<Vec<Step>>>;

/// Delegates to a model and counts.
#[derive(Debug)]
pub(crate) struct Timed {
    pub(crate) model: LoadedModel,
    pub(crate) steps: Steps,
    pub(crate) last_read: Instant,
    /// Of the step in flight.
    pub(crate) open: Option<Step>,
}

impl Model for Timed {
    type Ticket = Ticket;

    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<(), ModelError> {
        self.model.acquire(slot, bucket)
    }

    fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<CopyCost, ModelError> {
        self.model.promote(slot, bucket, written)
    }

    fn release(&mut self, slot: SlotId) {
        self.model.release(slot);
    }

    fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<CopyCost, ModelError> {
        self.model.copy_in(slot, blocks)
    }

    fn copy_out(&mut self, slot: SlotId, start: u32, block: BlockId) -> Result<CopyCost, ModelError> {
        self.model.copy_out(slot, start, block)
    }

    fn submit(&mut self, plan: &StepPlan) -> Result<Ticket, ModelError> {
        drop(profile::take());
        let started = Instant::now();
        let ticket = self.model.submit(plan)?;
        self.open = Some(Step {
            tokens: plan.input_tokens(),
            sampled: plan.entries.iter().filter(|entry| entry.sample.is_some()).count(),
            engine: started.duration_since(self.last_read),
            submit: started.elapsed(),
            wait: Duration::ZERO,
            kernels: profile::take(),
        });
        Ok(ticket)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, ModelError> {
        let started = Instant::now();
        let output = self.model.wait(ticket)?;
        if let Some(step) = self.open.take() {
            let step = Step {
                wait: started.elapsed(),
                ..step
            };
            self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
        }
        self.last_read = Instant::now();
        Ok(output)
    }
}
