//! A loaded model behind the engine's trait: checks a plan, builds the step's graph, reads what it chose.

pub(crate) mod measure;
mod plan;
mod read;
mod score;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use kr_contract::SequenceId;
use kr_engine::model::{
    BlockId, BucketId, CopyCost, Model, ModelError, ModelLimits, Sample, Sampled, SlotId, StepOutput, StepPlan,
};
use kr_kernels::Machine;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};

use crate::kv::KvArenas;
use crate::load::ModelInfo;
use crate::models::Decoder;
use crate::sample::Sampler;
use crate::sample::device::{self, Chosen};
use crate::sample::rows::Rows;
use crate::step::{StepLayout, indices};
use crate::weights::AdoptedWeights;
use plan::{rows_of_slots, sampled_rows, scorings};
use score::Scoring;

/// A model with its weights and KV memory. Everything about it, drop included, happens on the thread that loaded it.
#[derive(Debug)]
pub struct LoadedModel {
    // Fields drop in this order: the adopted weights' handles last.
    decoder: Box<dyn Decoder>,
    pub(crate) kv: KvArenas,
    /// What the last step sampled, for inputs that are still pending.
    last: Option<LastStep>,
    rows: Rows,
    sampler: Sampler,
    limits: ModelLimits,
    info: ModelInfo,
    _adopted: AdoptedWeights,
}

/// What [`LoadedModel::new`] puts together.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) kv: KvArenas,
    pub(crate) limits: ModelLimits,
    pub(crate) info: ModelInfo,
    /// Threads to sample rows on.
    pub(crate) machine: Option<Arc<Machine>>,
    pub(crate) sampler: Sampler,
    pub(crate) adopted: AdoptedWeights,
}

/// The tokens that the last submitted step chose, not read yet.
#[derive(Debug)]
struct LastStep {
    /// `[rows]`, int32.
    tokens: Array,
    row_of_slot: HashMap<SlotId, i32>,
}

/// A submitted step.
#[derive(Debug)]
pub struct Ticket {
    rows: Vec<(SequenceId, Sample)>,
    pending: Pending,
    scorings: Vec<Scoring>,
    /// Of the whole step, where something is to be scored.
    hidden: Option<Array>,
}

#[derive(Debug)]
enum Pending {
    /// Nothing is sampled; computed once the hidden states are.
    Nothing { hidden: Array },
    /// `[rows, vocabulary]`, float32: chosen from on the host.
    Logits { logits: Array },
    /// Chosen on the host already, because the next step may need the tokens.
    Sampled(Vec<Sampled>),
    /// Chosen on the device; logits are for log probabilities.
    Chosen { chosen: Chosen, logits: Array },
}

impl LoadedModel {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            decoder: parts.decoder,
            kv: parts.kv,
            last: None,
            rows: Rows::new(parts.machine),
            sampler: parts.sampler,
            limits: parts.limits,
            info: parts.info,
            _adopted: parts.adopted,
        }
    }

    /// What was loaded.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Runs the plan's tokens; returns hidden states `[tokens, hidden]`.
    pub(crate) fn run(&mut self, plan: &StepPlan) -> Result<Array, ModelError> {
        let spans = self.checked_spans(plan)?;
        let layout = StepLayout::new(spans, self.kv.arena_shapes());
        let tokens = self.input_tokens(plan)?;
        self.decoder.forward(&tokens, &layout, &mut self.kv).map_err(backend)
    }

    /// `hidden`: `[rows, hidden]` → float32 logits `[rows, vocabulary]`.
    pub(crate) fn logits(&self, hidden: &Array) -> Result<Array, ModelError> {
        let logits = self.decoder.logits(hidden).map_err(backend)?;
        logits.as_dtype(Dtype::Float32).map_err(backend)
    }

    fn queue(&mut self, plan: &StepPlan) -> Result<Ticket, ModelError> {
        let hidden = self.run(plan)?;
        let (mut rows, last_tokens) = sampled_rows(plan);
        let scorings = scorings(plan);
        let to_score = (!scorings.is_empty()).then(|| hidden.clone());
        self.last = None;
        let pending = if rows.is_empty() {
            transforms::async_eval(self.kv.arrays().chain([&hidden])).map_err(backend)?;
            Pending::Nothing { hidden }
        } else {
            let logits = match last_tokens.len() == hidden.dim(0).unsigned_abs() as usize {
                true => self.logits(&hidden)?,
                false => self.logits(&hidden.take_axis(indices(last_tokens), 0).map_err(backend)?)?,
            };
            self.choose(plan, &mut rows, logits)?
        };
        Ok(Ticket {
            rows,
            pending,
            scorings,
            hidden: to_score,
        })
    }

    /// `logits`: `[rows, vocabulary]`. Takes the rows where they are done with.
    fn choose(
        &mut self,
        plan: &StepPlan,
        rows: &mut Vec<(SequenceId, Sample)>,
        logits: Array,
    ) -> Result<Pending, ModelError> {
        let is_pipelined = self.limits.pipeline_depth > 0;
        let (pending, tokens) = match self.sampler {
            Sampler::Host => {
                transforms::async_eval(self.kv.arrays().chain([&logits])).map_err(backend)?;
                if !is_pipelined {
                    return Ok(Pending::Logits { logits });
                }
                let sampled = read::choose(std::mem::take(rows), &logits, &self.rows)?;
                // Where none could be chosen the sequence ends: any token will do.
                let tokens = sampled.iter().map(|sampled| sampled.token.map_or(0, u32::cast_signed));
                let tokens = indices(tokens.collect());
                (Pending::Sampled(sampled), tokens)
            }
            Sampler::Device => {
                let samples: Vec<_> = rows.iter().map(|(_, sample)| sample.clone()).collect();
                let chosen = device::choose(&logits, &samples).map_err(backend)?;
                let results = [&logits, &chosen.tokens, &chosen.finite];
                transforms::async_eval(self.kv.arrays().chain(results)).map_err(backend)?;
                let tokens = chosen.tokens.clone();
                (Pending::Chosen { chosen, logits }, tokens)
            }
        };
        self.last = is_pipelined.then(|| LastStep {
            tokens,
            row_of_slot: rows_of_slots(plan),
        });
        Ok(pending)
    }
}

impl Model for LoadedModel {
    type Ticket = Ticket;

    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<(), ModelError> {
        self.kv.acquire(slot, bucket)
    }

    fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<CopyCost, ModelError> {
        timed(|| self.kv.promote(slot, bucket, written as usize))
    }

    fn release(&mut self, slot: SlotId) {
        self.kv.release(slot);
    }

    fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<CopyCost, ModelError> {
        timed(|| self.kv.copy_in(slot, blocks))
    }

    fn copy_out(&mut self, slot: SlotId, start: u32, block: BlockId) -> Result<CopyCost, ModelError> {
        timed(|| self.kv.copy_out(slot, start as usize, block))
    }

    fn submit(&mut self, plan: &StepPlan) -> Result<Ticket, ModelError> {
        self.queue(plan)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, ModelError> {
        let sampled = match ticket.pending {
            Pending::Nothing { hidden } => {
                hidden.eval().map_err(backend)?;
                Vec::new()
            }
            Pending::Logits { logits } => read::choose(ticket.rows, &logits, &self.rows)?,
            Pending::Sampled(sampled) => sampled,
            Pending::Chosen { chosen, logits } => read::read_chosen(ticket.rows, &chosen, &logits, &self.rows)?,
        };
        let scored = match &ticket.hidden {
            None => Vec::new(),
            Some(hidden) => {
                let scored = ticket.scorings.iter().map(|scoring| self.score(hidden, scoring));
                scored.collect::<Result<_, _>>()?
            }
        };
        Ok(StepOutput { sampled, scored })
    }
}

fn timed(copy: impl FnOnce() -> Result<u64, ModelError>) -> Result<CopyCost, ModelError> {
    let started = Instant::now();
    let bytes = copy()?;
    Ok(CopyCost {
        bytes,
        elapsed: started.elapsed(),
    })
}

/// Waits for an array of float32 and returns its elements.
fn values(array: &Array) -> Result<&[f32], ModelError> {
    array
        .try_as_slice::<f32>()
        .map_err(|error| ModelError::Backend(Box::new(error)))
}

fn contract(problem: String) -> ModelError {
    ModelError::Contract(problem)
}

fn backend(error: Exception) -> ModelError {
    ModelError::Backend(Box::new(error))
}

#[cfg(test)]
mod tests;
