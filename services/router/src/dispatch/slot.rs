//! One worker as its model's dispatcher sees it: its state, what it has, and how much more it may get.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::SequenceId;
use tokio::sync::mpsc;

use super::moving::Moving;
use super::snapshot::{WorkerSnapshot, WorkerState};
use crate::adaptive::{Bounds, Controller};
use crate::metrics::WorkerMetrics;
use crate::policy::{Candidate, WorkerIndex};
use crate::sequence::SequenceKey;
use crate::workers::{Command, Frame, LossCause, Ready, WorkerProfile};

/// A worker that was full gets nothing for this long.
const PAUSE: Duration = Duration::from_millis(50);

/// The command could not be given: the session is ending.
#[derive(Debug)]
pub(super) struct Unreachable;

#[derive(Debug)]
pub(super) struct Slot {
    name: Arc<str>,
    state: WorkerState,
    state_since: Instant,
    message: Option<Arc<str>>,
    failed_start: bool,
    is_models_fault: bool,
    restarts: u32,
    profile: Option<Arc<WorkerProfile>>,
    session: Option<Session>,
    metrics: WorkerMetrics,
}

#[derive(Debug)]
struct Session {
    commands: mpsc::Sender<Command>,
    /// Everything sent that the worker owes an end for, cancelled sequences included: each holds one of its places.
    in_flight: HashMap<SequenceId, SequenceKey>,
    /// Sequences it can run at once.
    most: u32,
    /// How many it should have.
    controller: Controller,
    kv_budget_bytes: u64,
    /// By the last frame.
    reported: Reserve,
    /// Of what was sent and the worker had not read when it sent that frame.
    unread: HashMap<SequenceId, Reserve>,
    paused_until: Option<Instant>,
    /// Seconds of a step.
    step_time: Moving,
}

/// What sequences take of a worker.
#[derive(Debug, Clone, Copy, Default)]
struct Reserve {
    prefill_tokens: u64,
    kv_bytes: u64,
}

impl Reserve {
    fn and(self, other: Self) -> Self {
        Self {
            prefill_tokens: self.prefill_tokens.saturating_add(other.prefill_tokens),
            kv_bytes: self.kv_bytes.saturating_add(other.kv_bytes),
        }
    }
}

impl Slot {
    pub(super) fn new(name: Arc<str>, metrics: WorkerMetrics, now: Instant) -> Self {
        Self {
            name,
            state: WorkerState::Starting,
            state_since: now,
            message: None,
            failed_start: false,
            is_models_fault: false,
            restarts: 0,
            profile: None,
            session: None,
            metrics,
        }
    }

    pub(super) fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn profile(&self) -> Option<&Arc<WorkerProfile>> {
        self.profile.as_ref()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == WorkerState::Ready
    }

    pub(super) fn failed_start(&self) -> bool {
        self.failed_start
    }

    /// Returns why the model's files cannot be served, where the last start failed for that.
    pub(super) fn models_fault(&self) -> Option<&Arc<str>> {
        self.message.as_ref().filter(|_| self.is_models_fault)
    }

    pub(super) fn message(&self) -> Option<&Arc<str>> {
        self.message.as_ref()
    }

    /// Returns how many sequences it should have at present.
    pub(super) fn capacity(&self) -> u32 {
        self.session.as_ref().map_or(0, |session| session.controller.limit())
    }

    /// Returns how many sequences it may ever have.
    pub(super) fn most(&self) -> u32 {
        self.session.as_ref().map_or(0, |session| session.most)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.in_flight.len())
    }

    fn enter(&mut self, state: WorkerState, now: Instant) {
        self.state = state;
        self.state_since = now;
    }

    pub(super) fn starting(&mut self, now: Instant) {
        self.enter(WorkerState::Starting, now);
    }

    pub(super) fn ready(&mut self, ready: Ready, bounds: Bounds, now: Instant) {
        let most = ready.profile.max_sequences.min(bounds.most);
        let least = bounds.least.min(most);
        let controller = Controller::new(Bounds { least, most, ..bounds });
        self.metrics.limit(controller.limit());
        self.metrics
            .up(&ready.profile, now.saturating_duration_since(self.state_since));
        self.session = Some(Session {
            commands: ready.commands,
            in_flight: HashMap::new(),
            most,
            controller,
            kv_budget_bytes: ready.profile.kv_budget_bytes,
            reported: Reserve::default(),
            unread: HashMap::new(),
            paused_until: None,
            step_time: Moving::default(),
        });
        self.profile = Some(ready.profile);
        self.message = None;
        self.failed_start = false;
        self.is_models_fault = false;
        self.enter(WorkerState::Ready, now);
    }

    /// The worker takes nothing more, but finishes what it has.
    pub(super) fn draining(&mut self, now: Instant) {
        self.enter(WorkerState::Draining, now);
    }

    /// Ends the session and returns what the worker had.
    pub(super) fn lost(&mut self, now: Instant) -> Vec<(SequenceId, SequenceKey)> {
        self.metrics.down();
        self.enter(WorkerState::Backoff, now);
        let mut lost: Vec<_> = self
            .session
            .take()
            .into_iter()
            .flat_map(|session| session.in_flight)
            .collect();
        lost.sort_unstable();
        lost
    }

    pub(super) fn backoff(&mut self, cause: LossCause, message: Arc<str>, now: Instant) {
        self.metrics.restarted(cause);
        self.restarts = self.restarts.saturating_add(1);
        self.failed_start = matches!(cause, LossCause::FailedStart | LossCause::ModelNotLoaded);
        self.is_models_fault = cause == LossCause::ModelNotLoaded;
        self.message = Some(message);
        self.enter(WorkerState::Backoff, now);
    }

    pub(super) fn stopped(&mut self, now: Instant) {
        self.enter(WorkerState::Stopped, now);
    }

    /// Returns how the policies see it; `None` while it takes nothing.
    pub(super) fn candidate(&self, worker: WorkerIndex, now: Instant) -> Option<Candidate> {
        let session = self.session.as_ref().filter(|_| self.is_ready())?;
        if session.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        let in_flight = u32::try_from(session.in_flight.len()).unwrap_or(u32::MAX);
        let load = session.unread.values().copied().fold(session.reported, Reserve::and);
        Some(Candidate {
            worker,
            room: session.controller.limit().saturating_sub(in_flight),
            in_flight,
            pending_prefill_tokens: load.prefill_tokens,
            kv_used_bytes: load.kv_bytes,
            kv_budget_bytes: session.kv_budget_bytes,
        })
    }

    /// Sends a sequence.
    ///
    /// # Errors
    /// [`Unreachable`]: it was not sent.
    pub(super) fn admit(&mut self, key: SequenceKey, command: Command) -> Result<(), Unreachable> {
        let (Some(session), Command::Admit(admission)) = (&mut self.session, &command) else {
            return Err(Unreachable);
        };
        let id = admission.id;
        let prefill_tokens = (admission.request.prompt.len() + admission.emitted.len()) as u64;
        let most_tokens = admission.request.prompt.len() as u64 + u64::from(admission.request.max_tokens);
        let bytes_per_token = self.profile.as_ref().map_or(0, |profile| profile.kv_bytes_per_token);
        let reserve = Reserve {
            prefill_tokens,
            kv_bytes: most_tokens.saturating_mul(bytes_per_token),
        };
        session.commands.try_send(command).map_err(|_| Unreachable)?;
        session.in_flight.insert(id, key);
        session.unread.insert(id, reserve);
        Ok(())
    }

    /// Sends a cancel. Where it cannot be sent, the session is ending and the sequence with it.
    pub(super) fn cancel(&self, command: Command) {
        if let Some(session) = &self.session {
            let _ = session.commands.try_send(command);
        }
    }

    /// Returns whose a sequence id is.
    pub(super) fn key_of(&self, id: SequenceId) -> Option<SequenceKey> {
        self.session.as_ref()?.in_flight.get(&id).copied()
    }

    /// Returns what it has.
    pub(super) fn has(&self) -> impl Iterator<Item = (SequenceId, SequenceKey)> + '_ {
        let sessions = self.session.iter();
        sessions.flat_map(|session| session.in_flight.iter().map(|(id, key)| (*id, *key)))
    }

    /// Returns how long its steps take, once enough were seen.
    pub(super) fn step_time(&self) -> Option<Duration> {
        let mean = self.session.as_ref()?.step_time.mean()?;
        Duration::try_from_secs_f64(mean).ok()
    }

    /// Gives back the place a sequence held.
    pub(super) fn release(&mut self, id: SequenceId) -> Option<SequenceKey> {
        let session = self.session.as_mut()?;
        session.unread.remove(&id);
        session.in_flight.remove(&id)
    }

    /// Takes note of a frame's load.
    pub(super) fn frame(&mut self, frame: &Frame) {
        if let Some(session) = &mut self.session {
            self.metrics.frame(frame, session.kv_budget_bytes);
            session.reported = Reserve {
                prefill_tokens: frame.load.pending_prefill_tokens,
                kv_bytes: frame.load.kv_used_bytes,
            };
            let read = frame
                .accepted
                .iter()
                .chain(frame.updates.iter().map(|update| &update.id));
            for id in read {
                session.unread.remove(id);
            }
            if let Some(step) = frame.step {
                session.step_time.add(step.duration.as_secs_f64());
                if let Some(change) = session.controller.observe(step) {
                    self.metrics.limit(change.to);
                    let (worker, why) = (&*self.name, change.why.as_str());
                    tracing::info!(worker, from = change.from, to = change.to, why, "batch limit changed");
                }
            }
        }
    }

    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.paused_until = Some(now + PAUSE);
        }
    }

    /// Returns when a pause that lasts at `now` is over.
    pub(super) fn pause_over(&self, now: Instant) -> Option<Instant> {
        self.session.as_ref()?.paused_until.filter(|until| *until > now)
    }

    pub(super) fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot {
            name: self.name.clone(),
            state: self.state,
            message: self.message.clone(),
            restarts: self.restarts,
            profile: self.profile.clone(),
        }
    }
}
