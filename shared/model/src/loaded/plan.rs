//! From a step's plan to arrays: checks it against the model's contract, and finds its tokens.

use std::collections::HashMap;

use kr_contract::{SequenceId, TokenId};
use kr_engine::model::{Input, ModelError, PlanEntry, Sample, SlotId, StepPlan};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::select;

use super::score::Scoring;
use super::{LoadedModel, backend, contract};
use crate::layers::dim;
use crate::sample;
use crate::step::{Span, indices};

impl LoadedModel {
    pub(super) fn checked_spans(&self, plan: &StepPlan) -> Result<Vec<Span>, ModelError> {
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
        if let Some(score) = &entry.score {
            let targets = score.targets.len();
            if targets != len && targets + 1 != len {
                return Err(contract(format!("{targets} tokens to score follow {len} input tokens")));
            }
            self.check_vocabulary(&score.targets)?;
        }
        Ok(Span {
            bucket: place.bucket,
            row: place.row,
            start,
            len,
            offset,
        })
    }

    fn check_vocabulary(&self, ids: &[TokenId]) -> Result<(), ModelError> {
        let size = self.info.vocab_size;
        match ids.iter().find(|id| **id >= size) {
            Some(id) => Err(contract(format!("token {id} is outside the vocabulary of {size}"))),
            None => Ok(()),
        }
    }

    /// `[tokens]`, int32.
    pub(super) fn input_tokens(&self, plan: &StepPlan) -> Result<Array, ModelError> {
        let mut known = Vec::with_capacity(plan.input_tokens());
        let mut source = Vec::new();
        for entry in &plan.entries {
            match &entry.input {
                Input::Tokens(ids) => {
                    self.check_vocabulary(ids)?;
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
}

/// `known` where `source` is negative, else the row of `pending` that it names.
fn with_pending(known: &Array, source: Vec<i32>, pending: &Array) -> Result<Array, Exception> {
    let source = indices(source);
    let is_known = source.lt(Array::from_int(0))?;
    let row = select(&is_known, Array::from_int(0), &source)?;
    select(&is_known, known, pending.take_axis(&row, 0)?)
}

/// Whose tokens are chosen, how, and each one's last token of the flat batch.
pub(super) fn sampled_rows(plan: &StepPlan) -> (Vec<(SequenceId, Sample)>, Vec<i32>) {
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

pub(super) fn rows_of_slots(plan: &StepPlan) -> HashMap<SlotId, i32> {
    let sampled = plan.entries.iter().filter(|entry| entry.sample.is_some());
    sampled.zip(0..).map(|(entry, row)| (entry.slot, row)).collect()
}

/// The known tokens whose log probabilities are wanted.
pub(super) fn scorings(plan: &StepPlan) -> Vec<Scoring> {
    let mut scorings = Vec::new();
    let mut first = 0;
    for entry in &plan.entries {
        if let Some(score) = &entry.score {
            scorings.push(Scoring {
                sequence: entry.sequence,
                first,
                score: score.clone(),
            });
        }
        first += entry.input.len();
    }
    scorings
}
