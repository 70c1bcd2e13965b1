//! What a step's result means for its sequences.

use std::time::Instant;

use kr_contract::FinishReason;

use super::plan::{OpenEntry, OpenStep};
use super::{Scheduler, StepShape};
use crate::frame::{Finish, SequenceUpdate};
use crate::model::{Logprobs, Sampled, StepOutput};

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
        let mut scored = output.scored.into_iter();
        for entry in &step.entries {
            let result = EntryResult {
                sampled: if entry.samples { sampled.next() } else { None },
                scored: if entry.scores { scored.next() } else { None }.map_or_else(Vec::new, |scored| scored.logprobs),
            };
            self.apply_entry(entry, result, &mut applied, now);
        }
        self.save_computed();
        self.vacate_idle();
        self.free_left();
        Ok(applied)
    }

    fn apply_entry(&mut self, entry: &OpenEntry, result: EntryResult, applied: &mut Applied, now: Instant) {
        let EntryResult { sampled, scored } = result;
        if let Some(left) = self.leaving.iter_mut().find(|sequence| sequence.turn == entry.turn) {
            left.open_steps -= 1;
            applied.wasted_tokens += u32::from(sampled.is_some_and(|sampled| sampled.token.is_ok()));
            return;
        }
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.turn == entry.turn) else {
            return;
        };
        sequence.computed_to(entry.end);
        sequence.journal.step(applied.sequences, entry.prefill_tokens > 0);
        let mut update = SequenceUpdate {
            id: entry.sequence,
            start_index: sequence.generated(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            prompt_logprobs: scored,
            finish: None,
        };
        match sampled.map(|sampled| (sampled.token, sampled.logprobs)) {
            None => {}
            Some((Ok(token), logprobs)) => {
                sequence.journal.token(now);
                update.ids.push(token);
                update.logprobs.extend(logprobs.filter(|_| sequence.wants_logprobs()));
                if let Some(reason) = sequence.push(token) {
                    update.finish = self.finish(entry, reason, None, now);
                }
            }
            Some((Err(error), _)) => {
                update.finish = self.finish(entry, FinishReason::Error, Some(error.to_string()), now);
            }
        }
        if update.finish.is_some() || !update.ids.is_empty() || !update.prompt_logprobs.is_empty() {
            applied.updates.push(update);
        }
    }

    fn finish(
        &mut self,
        entry: &OpenEntry,
        reason: FinishReason,
        message: Option<String>,
        now: Instant,
    ) -> Option<Finish> {
        self.end(entry.turn, reason, message, now)?.finish
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

/// What one entry brought.
struct EntryResult {
    sampled: Option<Sampled>,
    scored: Vec<Logprobs>,
}

fn check(step: &OpenStep, output: &StepOutput) -> Result<(), OutputMismatch> {
    let planned = |wanted: fn(&OpenEntry) -> bool| {
        let entries = step.entries.iter().filter(move |entry| wanted(entry));
        entries.map(|entry| entry.sequence).collect::<Vec<_>>()
    };
    let sampled: Vec<_> = output.sampled.iter().map(|sampled| sampled.sequence).collect();
    let scored: Vec<_> = output.scored.iter().map(|scored| scored.sequence).collect();
    let (to_sample, to_score) = (planned(|entry| entry.samples), planned(|entry| entry.scores));
    if to_sample != sampled {
        return Err(OutputMismatch(format!(
            "planned tokens for {to_sample:?}, got them for {sampled:?}"
        )));
    }
    if to_score != scored {
        return Err(OutputMismatch(format!(
            "planned scores for {to_score:?}, got them for {scored:?}"
        )));
    }
    Ok(())
}
