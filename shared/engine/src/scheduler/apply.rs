//! What a step's result means for its sequences.

use std::time::Instant;

use kr_contract::FinishReason;

use super::plan::{OpenEntry, OpenStep};
use super::{Scheduler, StepShape};
use crate::frame::{Finish, SequenceUpdate};
use crate::model::{Sampled, StepOutput};

/// What a step brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Number of the step.
    pub step: u64,
    /// How large it was.
    pub shape: StepShape,
    /// Sequences in it.
    pub sequences: u32,
    /// News of live sequences, in the order of the plan.
    pub updates: Vec<SequenceUpdate>,
    /// Tokens chosen for sequences that had ended.
    pub wasted_tokens: u32,
}

/// The result does not answer the oldest open plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutputMismatch(String);

impl Scheduler {
    /// Takes the result of the oldest open step.
    ///
    /// # Errors
    /// [`OutputMismatch`], with nothing changed: fail the step.
    pub fn apply(&mut self, output: StepOutput, now: Instant) -> Result<Applied, OutputMismatch> {
        let step = self
            .open
            .pop_front()
            .ok_or_else(|| OutputMismatch("no step is open".into()))?;
        if let Err(mismatch) = check(&step, &output) {
            self.open.push_front(step);
            return Err(mismatch);
        }
        let mut applied = Applied {
            step: step.step,
            shape: step.shape,
            sequences: crate::count(step.entries.len()),
            updates: Vec::new(),
            wasted_tokens: 0,
        };
        let mut sampled = output.sampled.into_iter();
        for entry in &step.entries {
            let sampled = if entry.samples { sampled.next() } else { None };
            self.apply_entry(entry, sampled, &mut applied, now);
        }
        self.free_left();
        Ok(applied)
    }

    fn apply_entry(&mut self, entry: &OpenEntry, sampled: Option<Sampled>, applied: &mut Applied, now: Instant) {
        if let Some(left) = self.leaving.iter_mut().find(|sequence| sequence.turn == entry.turn) {
            left.open_steps -= 1;
            applied.wasted_tokens += u32::from(sampled.is_some_and(|sampled| sampled.token.is_ok()));
            return;
        }
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.turn == entry.turn) else {
            return;
        };
        sequence.open_steps -= 1;
        sequence.journal.step(applied.sequences, entry.prefill_tokens > 0);
        let Some(sampled) = sampled else {
            return;
        };
        let token = match sampled.token {
            Ok(token) => token,
            Err(error) => {
                let end = self.end(entry.turn, FinishReason::Error, Some(error.to_string()), now);
                applied.updates.extend(end);
                return;
            }
        };
        sequence.journal.token(now);
        let start_index = sequence.generated();
        let logprobs = sampled.logprobs.filter(|_| sequence.wants_logprobs());
        let reason = sequence.push(token);
        let finish: Option<Finish> = reason
            .and_then(|reason| self.end(entry.turn, reason, None, now))
            .and_then(|update| update.finish);
        applied.updates.push(SequenceUpdate {
            id: entry.sequence,
            start_index,
            ids: vec![token],
            logprobs: logprobs.into_iter().collect(),
            prompt_logprobs: Vec::new(),
            finish,
        });
    }

    /// Ends every live sequence of an open step that failed, or could not be submitted, with an error.
    pub fn fail_step(&mut self, step: u64, message: &str, now: Instant) -> Vec<SequenceUpdate> {
        let Some(index) = self.open.iter().position(|open| open.step == step) else {
            return Vec::new();
        };
        let entries = self.open.remove(index).map(|open| open.entries).unwrap_or_default();
        let mut updates = Vec::new();
        for entry in entries {
            let mut held = self.running.iter_mut().chain(&mut self.leaving);
            if let Some(sequence) = held.find(|sequence| sequence.turn == entry.turn) {
                sequence.open_steps -= 1;
            }
            updates.extend(self.end(entry.turn, FinishReason::Error, Some(message.to_owned()), now));
        }
        self.free_left();
        updates
    }
}

fn check(step: &OpenStep, output: &StepOutput) -> Result<(), OutputMismatch> {
    let planned = step
        .entries
        .iter()
        .filter(|entry| entry.samples)
        .map(|entry| entry.sequence);
    let planned: Vec<_> = planned.collect();
    let sampled: Vec<_> = output.sampled.iter().map(|sampled| sampled.sequence).collect();
    if planned == sampled {
        return Ok(());
    }
    Err(OutputMismatch(format!(
        "planned tokens for {planned:?}, got them for {sampled:?}"
    )))
}
