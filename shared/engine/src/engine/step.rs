//! One step of the loop: plan, slots, submit; then wait, apply, report.

use std::time::{Duration, Instant};

use kr_contract::FinishReason;

use super::{Engine, Submitted, report, slots};
use crate::Error;
use crate::frame::StepFrame;
use crate::model::{Model, ModelError, StepPlan};
use crate::scheduler::Applied;

/// A step this long is announced by a frame of its own, where no frame has: whoever watches would have to guess otherwise.
const LONG_STEP: Duration = Duration::from_millis(300);

impl<M: Model> Engine<M> {
    /// Submits the next step, where there is one, and returns whether it did.
    pub(super) fn submit_next(&mut self) -> Result<bool, Error> {
        let now = Instant::now();
        let Some(mut plan) = self.scheduler.plan(now, &self.estimate) else {
            self.free_slots()?;
            // Nothing that the loop waits for could change this, so it would spin for ever.
            return if self.is_stalled() {
                Err(self.stall())
            } else {
                Ok(false)
            };
        };
        self.prepare_slots(&mut plan, now)?;
        if plan.entries.is_empty() {
            return Ok(false);
        }
        let step = plan.step;
        match self.model.submit(&plan) {
            Ok(ticket) => self.submitted.push_back(Submitted { step, ticket, at: now }),
            Err(source) => {
                // The steps before were queued whole: what they bring is still good.
                self.settle()?;
                return Err(self.fail(step, source));
            }
        }
        Ok(true)
    }

    /// Performs slot actions where no plan was made: releases, and blocks to be saved before them.
    pub(super) fn free_slots(&mut self) -> Result<(), Error> {
        let mut nothing = StepPlan {
            step: 0,
            entries: Vec::new(),
        };
        self.prepare_slots(&mut nothing, Instant::now())
    }

    /// Performs slot actions in order. A sequence for which there is no memory leaves the plan.
    fn prepare_slots(&mut self, plan: &mut StepPlan, now: Instant) -> Result<(), Error> {
        loop {
            match slots::perform_next(&mut self.scheduler, &mut self.model, plan, now) {
                Ok(None) => return Ok(()),
                Ok(Some(performed)) => self.notices.sequences.extend(performed.ended),
                Err(error) => return Err(self.fail(plan.step, error)),
            }
        }
    }

    /// Waits for a step and reports it.
    pub(super) fn complete(&mut self, step: Submitted<M::Ticket>) -> Result<(), Error> {
        let output = self
            .model
            .wait(step.ticket)
            .map_err(|source| self.fail(step.step, source))?;
        let now = Instant::now();
        let applied = match self.scheduler.apply(output, now) {
            Ok(applied) => applied,
            Err(mismatch) => {
                self.fail_step(step.step, "the model answered another plan");
                return Err(Error::Output {
                    step: step.step,
                    detail: mismatch.to_string(),
                });
            }
        };
        self.free_slots()?;
        let began = self.last_read.map_or(step.at, |read| read.max(step.at));
        self.last_read = Some(now);
        let duration = now.saturating_duration_since(began);
        self.estimate.observe(applied.shape, duration);
        tracing::debug!(
            step = applied.step,
            decodes = applied.shape.decodes,
            prefill_tokens = applied.shape.prefill_tokens,
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            "step"
        );
        self.deliver(applied, duration);
        Ok(())
    }

    /// Waits for every open step.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        while let Some(step) = self.submitted.pop_front() {
            self.complete(step)?;
        }
        self.free_slots()
    }

    fn fail(&mut self, step: u64, source: ModelError) -> Error {
        self.fail_step(step, &report::describe(&source));
        Error::Model { step, source }
    }

    fn fail_step(&mut self, step: u64, message: &str) {
        let ended = self.scheduler.fail_step(step, message, Instant::now());
        self.notices.sequences.extend(ended);
        self.deliver_notices();
    }

    /// Returns whether there is work although no open step is left that could let it run.
    fn is_stalled(&self) -> bool {
        self.submitted.is_empty() && !self.scheduler.is_idle()
    }

    fn stall(&mut self) -> Error {
        let load = self.scheduler.load();
        let error = Error::Stalled {
            running: load.running,
            waiting: load.waiting,
        };
        let message = error.to_string();
        let ended = self
            .scheduler
            .end_all(FinishReason::Error, Some(&message), Instant::now());
        self.notices.sequences.extend(ended);
        self.deliver_notices();
        error
    }

    fn deliver(&mut self, applied: Applied, duration: Duration) {
        let expected = self.next_step_expected();
        let frame = self.notices.frame(self.scheduler.load(), expected);
        self.hand_over(report::with_step(frame, applied, duration));
    }

    /// Tells at once who was accepted and how long it will take, where the first step after idling is a long one.
    pub(super) fn announce_long_step(&mut self) {
        let is_first = !self.is_announced && !self.submitted.is_empty() && self.estimate.is_measured();
        if is_first && self.next_step_expected().is_some_and(|expected| expected >= LONG_STEP) {
            self.deliver_notices();
        }
    }

    /// Reports what happened without a step, if anything did.
    pub(super) fn deliver_notices(&mut self) {
        if self.notices.is_empty() {
            return;
        }
        let expected = self.next_step_expected();
        let frame = self.notices.frame(self.scheduler.load(), expected);
        self.hand_over(frame);
    }

    fn next_step_expected(&self) -> Option<Duration> {
        let shape = self.scheduler.next_shape(&self.estimate)?;
        Some(self.estimate.expect(shape))
    }

    fn hand_over(&mut self, mut frame: StepFrame) {
        let Some(session) = &mut self.session else {
            return;
        };
        self.is_announced = frame.next_step_expected.is_some();
        (frame.blocks_added, frame.blocks_evicted) = self.scheduler.take_block_changes();
        if session.sink.try_deliver(frame).is_err() {
            tracing::warn!("the frame sink is full or closed; its session ends");
            self.end_session();
        }
    }
}
