//! Whether a newcomer can start before its deadline.

use std::time::{Duration, Instant};

use super::super::forecast::{self, Ahead, Place};
use super::super::slot::Slot;
use super::{Failed, Rejection, SequenceKey, State, pace};
use crate::queue::Entry;

impl State {
    /// Returns the earliest start of a newcomer that has a deadline and must wait.
    ///
    /// # Errors
    /// [`Failed::CannotStart`]: that is after its deadline.
    pub(super) fn start_in_time(&self, newcomer: &Entry, now: Instant) -> Result<Option<Instant>, Failed> {
        let Some(deadline) = newcomer.deadline else {
            return Ok(None);
        };
        let wait = self.wait_of(newcomer, now);
        let time_left = deadline.saturating_duration_since(now);
        if wait > time_left && self.queue.limits().refuse_late {
            let failed = Failed::CannotStart {
                wait,
                time_left,
                retry_after: pace::sensible(wait - time_left),
            };
            return Err(self.refused(Rejection::CannotStart, failed));
        }
        Ok((!wait.is_zero()).then(|| now + wait))
    }

    fn wait_of(&self, newcomer: &Entry, now: Instant) -> Duration {
        // Nobody waits, so a free place would be the newcomer's: most requests go this way.
        let ready = || self.slots.iter().filter(|slot| slot.is_ready());
        if self.queue.is_empty() && ready().any(|slot| (slot.in_flight() as u64) < slot.capacity().into()) {
            return Duration::ZERO;
        }
        let Some(part) = self.answers.mean() else {
            return Duration::ZERO;
        };
        let places: Vec<_> = ready().flat_map(|slot| self.places(slot, part)).collect();
        let ahead = self.queue.ahead_of(newcomer).map(|entry| Ahead {
            tokens: f64::from(entry.max_tokens) * part,
            time_left: entry.deadline.map(|deadline| deadline.saturating_duration_since(now)),
        });
        forecast::wait(&places, ahead, self.answers.relative_deviation())
    }

    /// Returns when each place of a worker gets free. Where it has more than it should, the first to end leave none.
    fn places(&self, slot: &Slot, part: f64) -> Vec<Place> {
        let step = slot.step_time().unwrap_or_default();
        let mut taken: Vec<_> = slot
            .has()
            .map(|(_, key)| step.mul_f64(self.tokens_left(key, part)))
            .collect();
        taken.sort_unstable();
        let capacity = slot.capacity() as usize;
        let excess = taken.len().saturating_sub(capacity);
        let free = capacity.saturating_sub(taken.len());
        let free = std::iter::repeat_n(Duration::ZERO, free);
        let places = taken.into_iter().skip(excess).chain(free);
        places.map(|free_in| Place { free_in, step }).collect()
    }

    /// Returns how many tokens a running sequence is expected to generate still; none where it was cancelled.
    fn tokens_left(&self, key: SequenceKey, part: f64) -> f64 {
        let live = self
            .sequences
            .get(&key)
            .filter(|sequence| sequence.run().is_some_and(|run| !run.stopping));
        live.map_or(0.0, |sequence| {
            let expected = f64::from(sequence.request.max_tokens) * part;
            (expected - sequence.emitted.len() as f64).max(0.0)
        })
    }
}
