//! Performs the scheduler's slot actions on the model.

use std::time::Instant;

use super::report;
use crate::frame::SequenceUpdate;
use crate::model::{CopyCost, Model, ModelError, StepPlan};
use crate::scheduler::{Scheduler, SlotAction};

/// An action that was performed, or for which there was no memory.
#[derive(Debug)]
pub(crate) struct Performed {
    /// Only tests ask what it was.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by tests"))]
    pub(crate) action: SlotAction,
    /// The end of a sequence for which there is no memory at all.
    pub(crate) ended: Option<SequenceUpdate>,
}

/// Performs the next action, if there is one. Whoever gets no memory leaves `plan`, the one made last.
///
/// # Errors
/// What the model says, unless it is out of memory.
pub(crate) fn perform_next<M: Model>(
    scheduler: &mut Scheduler,
    model: &mut M,
    plan: &mut StepPlan,
    now: Instant,
) -> Result<Option<Performed>, ModelError> {
    let Some(action) = scheduler.next_slot_action() else {
        return Ok(None);
    };
    let ended = match perform(model, &action) {
        Ok(cost) => {
            scheduler.slot_done(&action, cost);
            None
        }
        Err(error @ ModelError::OutOfMemory(_)) => {
            let message = report::describe(&error);
            tracing::warn!(?action, error = message, "the model has no memory");
            scheduler.slot_failed(&action, plan, message, now)
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Performed { action, ended }))
}

fn perform<M: Model>(model: &mut M, action: &SlotAction) -> Result<CopyCost, ModelError> {
    match action {
        SlotAction::Acquire { slot, bucket, .. } => model.acquire(*slot, *bucket).map(|()| CopyCost::default()),
        SlotAction::Promote {
            slot, bucket, written, ..
        } => model.promote(*slot, *bucket, *written),
        SlotAction::CopyIn { slot, blocks, .. } => model.copy_in(*slot, blocks),
        SlotAction::CopyOut { slot, start, block } => model.copy_out(*slot, *start, *block),
        SlotAction::Release { slot } => {
            model.release(*slot);
            Ok(CopyCost::default())
        }
    }
}
