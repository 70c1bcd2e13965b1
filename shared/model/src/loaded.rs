//! A loaded model behind the engine's trait: checks a plan, builds the step's graph, reads what it chose.

use std::collections::HashMap;
use std::time::Instant;

use kr_contract::{SequenceId, TokenId};
use kr_engine::model::{
    BlockId, BucketId, CopyCost, Input, Model, ModelError, ModelLimits, PlanEntry, Sample, Sampled, SlotId, StepOutput,
    StepPlan,
};
use mlx_rs::error::Exception;
use mlx_rs::ops::select;
use mlx_rs::{Array, Dtype, transforms};

use crate::kv::KvArenas;
use crate::layers::dim;
use crate::load::ModelInfo;
use crate::models::Decoder;
use crate::sample::device::{self, Chosen};
use crate::sample::{self, host};
use crate::step::{Span, StepLayout, indices};
use crate::weights::AdoptedWeights;

/// A model with its weights and KV memory. Everything about it, drop included, happens on the thread that loaded it.
#[derive(Debug)]
pub struct LoadedModel {
    // Fields drop in this order: the adopted weights' handles last.
    decoder: Box<dyn Decoder>,
    kv: KvArenas,
    /// What the last step sampled, for inputs that are still pending.
    last: Option<LastStep>,
    scratch: host::Scratch,
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
}

#[derive(Debug)]
enum Pending {
    /// Nothing is sampled; computed once the hidden states are.
    Nothing { hidden: Array },
    /// `[rows, vocabulary]`, float32: chosen from on the host.
    Logits { logits: Array },
    /// Chosen on the device; logits are for log probabilities.
    Chosen { chosen: Chosen, logits: Array },
}

impl LoadedModel {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            decoder: parts.decoder,
            kv: parts.kv,
            last: None,
            scratch: host::Scratch::default(),
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

    fn checked_spans(&self, plan: &StepPlan) -> Result<Vec<Span>, ModelError> {
        let mut spans = Vec::with_capacity(plan.entries.len());
        let mut offset = 0;
        for entry in &plan.entries {
            let span = self.checked_span(entry, offset)?;
            if spans
                .iter()
                .any(|other: &Span| (other.bucket, other.row) == (span.bucket, span.row))
            {
                return Err(contract(format!(
                    "slot {} appears twice in step {}",
                    entry.slot.0, plan.step
                )));
            }
            offset += span.len;
            spans.push(span);
        }
        if spans.is_empty() {
            return Err(contract(format!("step {} is empty", plan.step)));
        }
        Ok(spans)
    }

    fn checked_span(&self, entry: &PlanEntry, offset: usize) -> Result<Span, ModelError> {
        let (place, capacity) = self.kv.place(entry.slot)?;
        let (start, len) = (entry.start as usize, entry.input.len());
        if len == 0 || start + len > capacity {
            let slot = entry.slot.0;
            return Err(contract(format!(
                "{len} tokens at {start} do not fit slot {slot} of {capacity}"
            )));
        }
        if let Some(sample) = &entry.sample {
            sample::check(sample)?;
        }
        Ok(Span {
            bucket: place.bucket,
            row: place.row,
            start,
            len,
            offset,
        })
    }

    /// `[tokens]`, int32.
    fn input_tokens(&self, plan: &StepPlan) -> Result<Array, ModelError> {
        let mut known = Vec::with_capacity(plan.input_tokens());
        let mut source = Vec::new();
        for entry in &plan.entries {
            match &entry.input {
                Input::Tokens(ids) => {
                    if let Some(id) = ids.iter().find(|id| **id >= self.info.vocab_size) {
                        let size = self.info.vocab_size;
                        return Err(contract(format!("token {id} is outside the vocabulary of {size}")));
                    }
                    known.extend(ids.iter().map(|id| id.cast_signed()));
                }
                Input::Pending => {
                    source.resize(known.len(), -1);
                    source.push(self.pending_row(entry.slot)?);
                    known.push(0);
                }
            }
        }
        source.resize(known.len(), -1);
        let known = indices(known);
        match &self.last {
            Some(last) if source.iter().any(|row| *row >= 0) => {
                with_pending(&known, source, &last.tokens).map_err(backend)
            }
            _ => Ok(known),
        }
    }

    fn pending_row(&self, slot: SlotId) -> Result<i32, ModelError> {
        let last = self.last.as_ref().filter(|_| self.limits.pipeline_depth > 0);
        last.and_then(|last| last.row_of_slot.get(&slot).copied())
            .ok_or_else(|| contract(format!("slot {} has no pending token", slot.0)))
    }

    fn queue(&mut self, plan: &StepPlan) -> Result<Ticket, ModelError> {
        let hidden = self.run(plan)?;
        let (rows, last_tokens) = sampled_rows(plan);
        let samples: Vec<_> = rows.iter().map(|(_, sample)| sample.clone()).collect();
        self.last = None;
        let pending = if rows.is_empty() {
            transforms::async_eval(self.kv.arrays().chain([&hidden])).map_err(backend)?;
            Pending::Nothing { hidden }
        } else {
            let logits = match last_tokens.len() == hidden.dim(0).unsigned_abs() as usize {
                true => self.logits(&hidden)?,
                false => self.logits(&hidden.take_axis(indices(last_tokens), 0).map_err(backend)?)?,
            };
            match self.limits.pipeline_depth {
                0 => {
                    transforms::async_eval(self.kv.arrays().chain([&logits])).map_err(backend)?;
                    Pending::Logits { logits }
                }
                _ => {
                    let chosen = device::choose(&logits, &samples).map_err(backend)?;
                    let results = [&logits, &chosen.tokens, &chosen.finite];
                    transforms::async_eval(self.kv.arrays().chain(results)).map_err(backend)?;
                    self.last = Some(LastStep {
                        tokens: chosen.tokens.clone(),
                        row_of_slot: rows_of_slots(plan),
                    });
                    Pending::Chosen { chosen, logits }
                }
            }
        };
        Ok(Ticket { rows, pending })
    }
}

/// `known` where `source` is negative, else the row of `pending` that it names.
fn with_pending(known: &Array, source: Vec<i32>, pending: &Array) -> Result<Array, Exception> {
    let source = indices(source);
    let is_known = source.lt(Array::from_int(0))?;
    let row = select(&is_known, Array::from_int(0), &source)?;
    select(&is_known, known, pending.take_axis(&row, 0)?)
}

/// Whose tokens are chosen, how, and each one's last token of the flat batch.
fn sampled_rows(plan: &StepPlan) -> (Vec<(SequenceId, Sample)>, Vec<i32>) {
    let mut rows = Vec::new();
    let mut last_tokens = Vec::new();
    let mut end = 0;
    for entry in &plan.entries {
        end += entry.input.len();
        if let Some(sample) = &entry.sample {
            rows.push((entry.sequence, sample.clone()));
            last_tokens.push(dim(end - 1));
        }
    }
    (rows, last_tokens)
}

fn rows_of_slots(plan: &StepPlan) -> HashMap<SlotId, i32> {
    let sampled = plan.entries.iter().filter(|entry| entry.sample.is_some());
    sampled.zip(0..).map(|(entry, row)| (entry.slot, row)).collect()
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
        let scratch = &mut self.scratch;
        let sampled = match ticket.pending {
            Pending::Nothing { hidden } => {
                hidden.eval().map_err(backend)?;
                Vec::new()
            }
            Pending::Logits { logits } => {
                let vocabulary = logits.dim(1).unsigned_abs() as usize;
                let values = logits
                    .try_as_slice::<f32>()
                    .map_err(|error| ModelError::Backend(Box::new(error)))?;
                let rows = ticket.rows.into_iter().zip(values.chunks_exact(vocabulary));
                rows.map(|((sequence, sample), logits)| {
                    let token = host::choose(logits, &sample, scratch);
                    sampled(sequence, &sample, token, logits)
                })
                .collect()
            }
            Pending::Chosen { chosen, logits } => read_chosen(ticket.rows, &chosen, &logits)?,
        };
        Ok(StepOutput {
            sampled,
            scored: Vec::new(),
        })
    }
}

/// Reads what the device chose; logits only where log probabilities were asked for.
fn read_chosen(rows: Vec<(SequenceId, Sample)>, chosen: &Chosen, logits: &Array) -> Result<Vec<Sampled>, ModelError> {
    let slice = |error| ModelError::Backend(Box::new(error));
    let tokens = chosen.tokens.try_as_slice::<i32>().map_err(slice)?;
    let finite = chosen.finite.try_as_slice::<bool>().map_err(slice)?;
    let vocabulary = logits.dim(1).unsigned_abs() as usize;
    let mut sampled_rows = Vec::with_capacity(rows.len());
    for (row, (sequence, sample)) in rows.into_iter().enumerate() {
        let token = match finite[row] {
            true => Ok(tokens[row].unsigned_abs()),
            false => Err(kr_engine::model::SampleError::NotFinite),
        };
        let needed = sample.params.logprobs.is_some();
        let values = if needed {
            logits.try_as_slice::<f32>().map_err(slice)?
        } else {
            &[]
        };
        let row_values = values.chunks_exact(vocabulary).nth(row).unwrap_or(&[]);
        sampled_rows.push(sampled(sequence, &sample, token, row_values));
    }
    Ok(sampled_rows)
}

fn sampled(
    sequence: SequenceId,
    sample: &Sample,
    token: Result<TokenId, kr_engine::model::SampleError>,
    logits: &[f32],
) -> Sampled {
    let logprobs = match token {
        Ok(chosen) => host::logprobs(logits, sample, chosen),
        Err(_) => None,
    };
    Sampled {
        sequence,
        token,
        logprobs,
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

fn contract(problem: String) -> ModelError {
    ModelError::Contract(problem)
}

fn backend(error: Exception) -> ModelError {
    ModelError::Backend(Box::new(error))
}

#[cfg(test)]
mod tests;
