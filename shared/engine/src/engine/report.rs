//! Puts a frame together from what a step brought and what happened beside it.

use std::error::Error as StdError;
use std::time::Duration;

use kr_contract::SequenceId;

use crate::Reject;
use crate::frame::{Load, SequenceUpdate, StepFrame};
use crate::scheduler::Applied;

/// What happened since the frame before, outside of steps.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) accepted: Vec<SequenceId>,
    pub(super) rejected: Vec<(SequenceId, Reject)>,
    pub(super) sequences: Vec<SequenceUpdate>,
}

impl Notices {
    pub(super) fn is_empty(&self) -> bool {
        self.accepted.is_empty() && self.rejected.is_empty() && self.sequences.is_empty()
    }

    /// Moves the notices into a frame of step 0.
    pub(super) fn frame(&mut self, load: Load, next_step_expected: Option<Duration>) -> StepFrame {
        let Self {
            accepted,
            rejected,
            sequences,
        } = std::mem::take(self);
        StepFrame {
            step: 0,
            planned_sequences: 0,
            planned_tokens: 0,
            step_duration: Duration::ZERO,
            next_step_expected,
            accepted,
            rejected,
            sequences,
            load,
            blocks_added: Vec::new(),
            blocks_evicted: Vec::new(),
            wasted_tokens: 0,
        }
    }
}

/// Adds a step's results to a frame.
pub(super) fn with_step(mut frame: StepFrame, applied: Applied, duration: Duration) -> StepFrame {
    frame.step = applied.step;
    frame.planned_sequences = applied.sequences;
    frame.planned_tokens = applied.shape.decodes + applied.shape.prefill_tokens;
    frame.step_duration = duration;
    frame.sequences.extend(applied.updates);
    frame.wasted_tokens = applied.wasted_tokens;
    frame
}

/// Returns an error and its causes in one line.
pub(super) fn describe(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
