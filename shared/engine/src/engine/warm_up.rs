//! A few steps before the engine is ready, so that what it announces first was measured: a long prompt, and decodes of one
//! sequence and of as many as may run at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{SamplingParams, SequenceId};

use crate::Error;
use crate::estimate::StepEstimate;
use crate::model::{BucketId, Input, Model, ModelError, ModelLimits, PlanEntry, Sample, SlotId, StepPlan};
use crate::scheduler::StepShape;

/// The long prompt is cut to what is expected to take this long.
const LONGEST_PREFILL: Duration = Duration::from_secs(5);
/// Tokens of the chunks that go before it: they bring weights into memory and show how fast the model is.
const SHORT_CHUNK: u32 = 16;
/// Measured decode steps of each batch size; one more goes before them.
const DECODES: u32 = 3;

/// How fast a model was before it took any request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WarmUp {
    /// Tokens of a long prompt per second.
    pub prefill_tokens_per_s: f64,
    /// A step that decodes one sequence.
    pub decode_step: Duration,
    /// A step that decodes `batch` sequences.
    pub batch_decode_step: Duration,
    /// As many sequences as may run at once.
    pub batch: u32,
    /// Steps that were run.
    pub steps: u64,
    /// Time all of it took.
    pub elapsed: Duration,
}

/// What may go into a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) max_step_tokens: u32,
    pub(super) max_sequences: u32,
}

/// Runs the steps and teaches `estimate`; `None` where the model's slots are too short for it.
///
/// # Errors
/// A step failed: this model would fail for any request.
pub(super) fn run<M: Model>(
    model: &mut M,
    extent: Extent,
    estimate: &mut StepEstimate,
) -> Result<Option<WarmUp>, Error> {
    let began = Instant::now();
    let Some(place) = Place::longest(model.limits(), extent) else {
        return Ok(None);
    };
    let mut rows = Rows {
        model,
        estimate,
        written: Vec::new(),
        held_bytes: 0,
        step: 0,
    };
    let result = rows.measure(place, extent);
    rows.release();
    let steps = rows.step;
    let measured = result.map_err(|source| Error::Model { step: steps, source })?;
    Ok(Some(WarmUp {
        steps,
        elapsed: began.elapsed(),
        ..measured
    }))
}

/// The slot of the long prompt.
#[derive(Debug, Clone, Copy)]
struct Place {
    bucket: BucketId,
    prompt_tokens: u32,
}

impl Place {
    fn longest(limits: &ModelLimits, extent: Extent) -> Option<Self> {
        let beside = 2 * SHORT_CHUNK + 2 * (DECODES + 1);
        let wanted = extent.max_step_tokens.saturating_add(beside).min(limits.context_tokens);
        let index = |index| u8::try_from(index).ok().map(BucketId);
        let buckets = (0..limits.bucket_tokens.len()).filter_map(index);
        let fitting = buckets.filter(|bucket| limits.slot_bytes(*bucket) <= limits.kv_budget_bytes);
        let longest = limits.bucket_for(wanted)?;
        let bucket = fitting.take_while(|bucket| *bucket <= longest).last()?;
        let tokens = limits.bucket_tokens.get(usize::from(bucket.0)).copied()?;
        let prompt_tokens = tokens.min(wanted).checked_sub(beside)?;
        (prompt_tokens > 0).then_some(Self { bucket, prompt_tokens })
    }
}

/// Slots from 0 on, each with a sequence of nothing but token 0.
struct Rows<'a, M: Model> {
    model: &'a mut M,
    estimate: &'a mut StepEstimate,
    /// By slot.
    written: Vec<u32>,
    held_bytes: u64,
    step: u64,
}

impl<M: Model> Rows<'_, M> {
    fn measure(&mut self, place: Place, extent: Extent) -> Result<WarmUp, ModelError> {
        self.acquire(place.bucket)?;
        self.prefill(SHORT_CHUNK)?;
        let short = self.prefill(SHORT_CHUNK)?;
        let fitting = LONGEST_PREFILL.as_secs_f64() / short.as_secs_f64().max(1e-9) * f64::from(SHORT_CHUNK);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and u32::MAX"
        )]
        let fitting = fitting.min(f64::from(u32::MAX)) as u32;
        let prompt_tokens = place.prompt_tokens.min(fitting.max(SHORT_CHUNK));
        let prompt = self.prefill(prompt_tokens)?;
        let decode_step = self.decode()?;
        self.fill(extent)?;
        let batch = crate::count(self.written.len());
        let batch_decode_step = if batch > 1 { self.decode()? } else { decode_step };
        Ok(WarmUp {
            prefill_tokens_per_s: f64::from(prompt_tokens) / prompt.as_secs_f64().max(1e-9),
            decode_step,
            batch_decode_step,
            batch,
            ..WarmUp::default()
        })
    }

    fn acquire(&mut self, bucket: BucketId) -> Result<(), ModelError> {
        self.model.acquire(slot(self.written.len()), bucket)?;
        self.written.push(0);
        self.held_bytes += self.model.limits().slot_bytes(bucket);
        Ok(())
    }

    /// Adds short sequences, as many as may run at once and as there is memory for.
    fn fill(&mut self, extent: Extent) -> Result<(), ModelError> {
        let limits = self.model.limits();
        let rows = extent
            .max_sequences
            .min(limits.max_sequences)
            .min(extent.max_step_tokens);
        let short = limits.slot_bytes(BucketId(0)).max(1);
        let bytes = limits.kv_budget_bytes.saturating_sub(self.held_bytes);
        let room = u32::try_from(bytes / short).unwrap_or(u32::MAX);
        let first = self.written.len();
        for _ in 1..rows.min(room.saturating_add(1)) {
            match self.acquire(BucketId(0)) {
                Ok(()) => {}
                Err(ModelError::OutOfMemory(_)) => break,
                Err(error) => return Err(error),
            }
        }
        if self.written.len() > first {
            let entries = (first..self.written.len()).map(|row| self.entry(row, 1)).collect();
            self.run(entries)?;
        }
        Ok(())
    }

    fn prefill(&mut self, tokens: u32) -> Result<Duration, ModelError> {
        let entry = self.entry(0, tokens);
        let duration = self.run(vec![entry])?;
        self.estimate.observe(
            StepShape {
                decodes: 0,
                prefill_tokens: tokens,
            },
            duration,
        );
        Ok(duration)
    }

    /// Decodes a few tokens of every row; returns the shortest step.
    fn decode(&mut self) -> Result<Duration, ModelError> {
        let rows = self.written.len();
        let shape = StepShape {
            decodes: crate::count(rows),
            prefill_tokens: 0,
        };
        let mut shortest = Duration::MAX;
        for number in 0..=DECODES {
            let entries = (0..rows).map(|row| self.entry(row, 1)).collect();
            let duration = self.run(entries)?;
            // The first one of its shape may have to build what the others use.
            if number > 0 {
                self.estimate.observe(shape, duration);
                shortest = shortest.min(duration);
            }
        }
        Ok(shortest)
    }

    fn entry(&self, row: usize, tokens: u32) -> PlanEntry {
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        PlanEntry {
            sequence: SequenceId(u64::try_from(row).unwrap_or(u64::MAX)),
            slot: slot(row),
            start: self.written.get(row).copied().unwrap_or(0),
            input: Input::Tokens(vec![0; tokens]),
            sample: Some(Sample {
                params: Arc::new(SamplingParams {
                    temperature: 0.0,
                    ..SamplingParams::default()
                }),
                position: 0,
                forbidden: Arc::default(),
                history: None,
            }),
            score: None,
        }
    }

    fn run(&mut self, entries: Vec<PlanEntry>) -> Result<Duration, ModelError> {
        for entry in &entries {
            let row = usize::try_from(entry.slot.0).unwrap_or(usize::MAX);
            if let Some(written) = self.written.get_mut(row) {
                *written += crate::count(entry.input.len());
            }
        }
        let began = Instant::now();
        self.step += 1;
        let ticket = self.model.submit(&StepPlan {
            step: self.step,
            entries,
        })?;
        self.model.wait(ticket)?;
        Ok(began.elapsed())
    }

    fn release(&mut self) {
        for row in 0..self.written.len() {
            self.model.release(slot(row));
        }
    }
}

fn slot(row: usize) -> SlotId {
    SlotId(crate::count(row))
}
