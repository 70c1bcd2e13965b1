//! What workers say, and what follows from it for sequences.

use std::time::Instant;

use kr_contract::SequenceId;

use super::{Accepted, CancelReason, Counted, Failed, MOST_ATTEMPTS, Place, SequenceKey, State, WorkerIndex};
use crate::sequence::Tokens;
use crate::workers::{End, Frame, Notice, RejectReason, Rejected, Update, WorkerEvent};

impl State {
    /// Takes in one worker's news.
    pub(in super::super) fn notice(&mut self, notice: Notice, now: Instant) {
        let Notice { worker, event } = notice;
        let Some(slot) = self.slots.get_mut(worker.0) else {
            return;
        };
        match event {
            WorkerEvent::Starting => slot.starting(now),
            WorkerEvent::Ready(ready) => slot.ready(ready, self.batch, now),
            WorkerEvent::Frame(frame) => return self.frame(worker, frame, now),
            WorkerEvent::Rejected(rejected) => self.rejected(worker, rejected, now),
            WorkerEvent::Lost => {
                self.policy.lost(worker);
                for (id, key) in slot.lost(now) {
                    self.lost(id, key);
                }
            }
            WorkerEvent::Backoff { message, cause } => {
                slot.backoff(cause, message, now);
                self.end_waiting_in_vain();
            }
            WorkerEvent::Stopped => slot.stopped(now),
        }
        if self.slots.iter().any(super::Slot::is_ready) {
            self.without_worker_since = None;
        } else {
            self.without_worker_since.get_or_insert(now);
        }
    }

    fn frame(&mut self, worker: WorkerIndex, frame: Frame, now: Instant) {
        if let Some(slot) = self.slots.get_mut(worker.0) {
            slot.frame(&frame);
        }
        self.policy.blocks(worker, &frame.blocks_added, &frame.blocks_evicted);
        for id in frame.accepted {
            self.accepted(worker, id);
        }
        for update in frame.updates {
            self.update(worker, update, now);
        }
    }

    /// Returns whose id this is, if that sequence is alive and this is its present try.
    fn live(&self, worker: WorkerIndex, id: SequenceId) -> Option<SequenceKey> {
        let key = self.slots.get(worker.0)?.key_of(id)?;
        let run = self.sequences.get(&key)?.run()?;
        (run.id == id).then_some(key)
    }

    fn accepted(&mut self, worker: WorkerIndex, id: SequenceId) {
        let Some(key) = self.live(worker, id) else { return };
        let slot = self.slots.get(worker.0);
        let Some((sequence, slot)) = self.sequences.get_mut(&key).zip(slot) else {
            return;
        };
        let Some(profile) = slot.profile() else { return };
        let Place::Running(run) = &mut sequence.place else {
            return;
        };
        if run.span.take().is_none() {
            return;
        }
        let queue_time = run.sent.saturating_duration_since(sequence.request.arrived);
        self.metrics.accepted(queue_time, sequence.request.prompt.len());
        let sent = run.sent;
        let accepted = Accepted {
            worker: slot.name().clone(),
            exactness: profile.fingerprint.class,
            numerics_fingerprint: profile.fingerprint_text.clone(),
            model_digest: profile.model_digest.clone(),
            attempts: sequence.attempts,
            queue_time,
            coalesced: false,
        };
        sequence.readers.accepted(accepted, sent);
    }

    fn update(&mut self, worker: WorkerIndex, update: Update, now: Instant) {
        let Update {
            id,
            prompt_logprobs,
            tokens,
            end,
        } = update;
        let live = self.live(worker, id);
        if live.is_some() {
            self.accepted(worker, id);
        }
        if end.is_some()
            && let Some(slot) = self.slots.get_mut(worker.0)
        {
            slot.release(id);
        }
        let Some(key) = live else { return };
        if !prompt_logprobs.is_empty()
            && let Some(sequence) = self.sequences.get_mut(&key)
        {
            sequence.readers.prompt_logprobs(&prompt_logprobs);
        }
        if !tokens.ids.is_empty() {
            self.tokens(key, tokens, now);
        }
        if let Some(end) = end {
            self.ended(key, end);
        }
    }

    fn tokens(&mut self, key: SequenceKey, tokens: Tokens, now: Instant) {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return;
        };
        if sequence.run().is_some_and(|run| run.stopping) {
            return;
        }
        if tokens.start_index as usize != sequence.emitted.len() {
            let message = format!(
                "the worker sent tokens from index {} where {} was next",
                tokens.start_index,
                sequence.emitted.len()
            );
            tracing::error!(request = %sequence.request.request_id, message, "broken token stream");
            self.fail(key, CancelReason::Shutdown, Failed::ModelFailed { message });
            return;
        }
        sequence.emitted.extend_from_slice(&tokens.ids);
        let shared = (sequence.readers.count() - 1) * tokens.ids.len();
        let slow = sequence.readers.tokens(tokens, sequence.identity.is_some(), now);
        self.metrics.saved_tokens(shared);
        for reader in slow {
            self.end_reader(reader, CancelReason::SlowConsumer, Some(Failed::SlowConsumer));
        }
    }

    fn ended(&mut self, key: SequenceKey, end: End) {
        match end {
            End::Finished(finished) => {
                if let Some(sequence) = self.remove(key) {
                    self.answers
                        .add(sequence.emitted.len() as f64 / f64::from(sequence.request.max_tokens.max(1)));
                    self.metrics.finished(&finished);
                    sequence.readers.finish(&finished);
                }
            }
            End::Cancelled(finished) => {
                let asked = self
                    .sequences
                    .get(&key)
                    .and_then(super::Sequence::run)
                    .is_some_and(|run| run.stopping);
                if !asked {
                    // The worker drains by somebody else's order.
                    return self.move_or_fail(key);
                }
                // A stop text, which is an end like any other.
                if let Some(sequence) = self.remove(key) {
                    self.metrics.finished(&finished);
                    sequence.readers.finish(&finished);
                }
            }
            End::Failed { message } => {
                if let Some(sequence) = self.remove(key) {
                    sequence.readers.fail(&Failed::ModelFailed { message });
                }
            }
        }
    }

    fn lost(&mut self, id: SequenceId, key: SequenceKey) {
        let run = self.sequences.get(&key).and_then(super::Sequence::run);
        if run.is_some_and(|run| run.id == id) {
            self.move_or_fail(key);
        }
    }

    /// A sequence's worker is gone. Before the first token another one takes it and the client sees nothing.
    fn move_or_fail(&mut self, key: SequenceKey) {
        let Some(sequence) = self.sequences.get(&key) else {
            return;
        };
        if sequence.emitted.is_empty() && sequence.attempts < MOST_ATTEMPTS {
            self.metrics.retried();
            self.take_back(key, Counted::Yes);
        } else if let Some(sequence) = self.remove(key) {
            let emitted = u32::try_from(sequence.emitted.len()).unwrap_or(u32::MAX);
            sequence.readers.fail(&Failed::WorkerLost { emitted });
        }
    }

    fn rejected(&mut self, worker: WorkerIndex, rejected: Rejected, now: Instant) {
        let live = self.live(worker, rejected.id);
        let Some(slot) = self.slots.get_mut(worker.0) else {
            return;
        };
        slot.release(rejected.id);
        match rejected.reason {
            RejectReason::Busy => slot.pause(now),
            RejectReason::Draining => slot.draining(now),
            RejectReason::Final => {}
        }
        let Some(key) = live else { return };
        match rejected.reason {
            RejectReason::Busy | RejectReason::Draining => self.take_back(key, Counted::No),
            RejectReason::Final => {
                if let Some(sequence) = self.remove(key) {
                    let message = rejected.message;
                    sequence.readers.fail(&Failed::Refused { message });
                }
            }
        }
    }
}
