//! One model's scheduling state and every rule about it: who waits, who runs where, and what happens to each when a frame,
//! a loss, a cancel or a deadline comes. Never waits and reads no clock; what it sends, it sends without blocking.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{SequenceId, TokenId};
use tracing::Span;

use super::ModelSetup;
use super::moving::Moving;
use super::pace::{self, Pace};
use super::slot::Slot;
use super::snapshot::{ModelSnapshot, ModelState};
use crate::adaptive::Bounds;
use crate::batch;
use crate::coalesce::{Identity, Joined, Reader, Readers};
use crate::metrics::{Departure, Forecast, ModelMetrics, Rejection};
use crate::policy::{Choice, Policy, WorkerIndex};
use crate::queue::{Entry, Full, Queue};
use crate::sequence::{
    Accepted, CancelReason, Cancellations, Failed, SequenceKey, SequenceRequest, SequenceStream, StreamLimits, stream,
};
use crate::workers::{Admission, Command};
use blocks::Blocks;

mod blocks;
mod events;
mod sharing;
mod start;

/// Tries of one sequence while no token of it was sent: the first, and one more after its worker was lost.
const MOST_ATTEMPTS: u32 = 2;

#[derive(Debug)]
pub(super) struct State {
    name: Arc<str>,
    batch: Bounds,
    hold: Duration,
    /// Since when what waits is held back for others to come.
    held_since: Option<Instant>,
    stream_limits: StreamLimits,
    queue: Queue,
    policy: Box<dyn Policy>,
    slots: Vec<Slot>,
    sequences: HashMap<SequenceKey, Sequence>,
    /// Which sequence each reader reads that joined one.
    joined: HashMap<SequenceKey, SequenceKey>,
    /// Sequences that identical requests may join.
    shared: HashMap<Identity, SequenceKey>,
    /// Of readers. The queue has the latest of each waiting sequence too.
    deadlines: BTreeSet<(Instant, SequenceKey)>,
    cancellations: Arc<Cancellations>,
    metrics: ModelMetrics,
    pace: Pace,
    /// Generated tokens of answers that ended by themselves, as a part of what they were allowed.
    answers: Moving,
    next_key: u64,
    next_id: u64,
    without_worker_since: Option<Instant>,
    draining: bool,
}

/// A live sequence: its stream has not ended.
#[derive(Debug)]
struct Sequence {
    request: Arc<SequenceRequest>,
    /// What it has in common with requests that may join it.
    identity: Option<Identity>,
    readers: Readers,
    attempts: u32,
    /// The earliest start forecast, where it has a deadline and had to wait.
    earliest_start: Option<Instant>,
    /// Names of the prompt's blocks, where the policy looks at them.
    blocks: Blocks,
    /// What the client has or will read next; a replay starts from it.
    emitted: Vec<TokenId>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Waiting,
    Running(Run),
}

#[derive(Debug)]
struct Run {
    worker: WorkerIndex,
    id: SequenceId,
    /// When it was sent. A worker takes it at once but says so with its next frame only, which may be a step later.
    sent: Instant,
    /// From leaving the queue until the worker accepts it; unset from then on.
    span: Option<Span>,
    /// Cancelled for a stop text; its end is still to be delivered.
    stopping: bool,
}

fn dispatch_span(request: &SequenceRequest, worker: &str, attempt: u32) -> Span {
    let span = tracing::info_span!("dispatch", worker, attempt);
    if let Some(traceparent) = &request.traceparent {
        kr_boot::telemetry::set_parent(&span, traceparent);
    }
    span
}

impl Sequence {
    fn run(&self) -> Option<&Run> {
        match &self.place {
            Place::Waiting => None,
            Place::Running(run) => Some(run),
        }
    }

    fn entry(&self, key: SequenceKey) -> Entry {
        Entry {
            key,
            tenant: self.request.tenant.clone(),
            priority: self.readers.priority(),
            since: self.request.arrived,
            deadline: self.readers.deadline(),
            prompt_tokens: self.request.prompt.len(),
            max_tokens: self.request.max_tokens,
            blocks: self.blocks.names.clone(),
            block_tokens: self.blocks.tokens,
        }
    }
}

impl State {
    pub(super) fn new(setup: &ModelSetup, metrics: ModelMetrics, now: Instant) -> Self {
        metrics.begin();
        let slot = |name: &Arc<str>| {
            let metrics = metrics.worker(name.clone());
            metrics.begin();
            Slot::new(name.clone(), metrics, now)
        };
        Self {
            name: setup.name.clone(),
            batch: setup.batch,
            hold: setup.hold,
            held_since: None,
            stream_limits: setup.stream,
            queue: Queue::new(setup.queue),
            policy: setup.policy.build(setup.seed),
            slots: setup.workers.iter().map(|worker| slot(&worker.name)).collect(),
            sequences: HashMap::new(),
            joined: HashMap::new(),
            shared: HashMap::new(),
            deadlines: BTreeSet::new(),
            cancellations: Arc::default(),
            metrics,
            pace: Pace::default(),
            answers: Moving::default(),
            next_key: 0,
            next_id: 0,
            without_worker_since: Some(now),
            draining: false,
        }
    }

    pub(super) fn cancellations(&self) -> &Arc<Cancellations> {
        &self.cancellations
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Returns how many tenants wait.
    pub(super) fn waiting_tenants(&self) -> usize {
        self.queue.tenants()
    }

    /// Returns whether no sequence is alive.
    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// Answer the client at once: nothing was queued.
    pub(super) fn submit(
        &mut self,
        request: SequenceRequest,
        identity: Option<Identity>,
        now: Instant,
    ) -> Result<SequenceStream, Failed> {
        if self.draining {
            return Err(self.refused(Rejection::Draining, Failed::Draining));
        }
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(self.refused(Rejection::Deadline, Failed::DeadlineExceeded));
        }
        if let Some(failed) = self.not_loaded() {
            return Err(self.refused(Rejection::ModelNotLoaded, failed));
        }
        let key = SequenceKey(self.next_key);
        let (sender, stream) = stream::channel(key, self.cancellations.clone(), self.stream_limits);
        let mut reader = Reader {
            key,
            sender,
            arrived: request.arrived,
            deadline: request.deadline,
            priority: request.priority,
            joined: Joined::First,
        };
        if let Some(shared) = identity.and_then(|identity| self.shared.get(&identity).copied()) {
            reader.joined = Joined::Later;
            self.join(shared, reader, now);
            return Ok(stream);
        }
        let deadline = request.deadline;
        let blocks = self.blocks_of(&request);
        let mut sequence = Sequence {
            blocks,
            request: Arc::new(request),
            identity,
            readers: Readers::new(reader),
            attempts: 0,
            earliest_start: None,
            emitted: Vec::new(),
            place: Place::Waiting,
        };
        let entry = sequence.entry(key);
        sequence.earliest_start = self.start_in_time(&entry, now)?;
        let displaced = match self.queue.push(entry) {
            Ok(displaced) => displaced,
            Err(Full::Queue) => return Err(self.refused(Rejection::QueueFull, self.queue_full())),
            Err(Full::Tenant) => {
                let failed = Failed::TenantQueueFull {
                    capacity: self.queue.limits().capacity_per_tenant,
                    retry_after: self.pace.retry_after(),
                };
                return Err(self.refused(Rejection::TenantQueueFull, failed));
            }
        };
        self.next_key += 1;
        self.sequences.insert(key, sequence);
        self.shared.extend(identity.map(|identity| (identity, key)));
        self.deadlines.extend(deadline.map(|deadline| (deadline, key)));
        if let Some(sequence) = displaced.and_then(|displaced| self.remove(displaced.key)) {
            self.metrics.departed(Departure::Displaced);
            sequence.readers.fail(&self.queue_full());
        }
        Ok(stream)
    }

    /// Returns why waiting is in vain, where no worker can load the model.
    fn not_loaded(&self) -> Option<Failed> {
        let mut faults = self.slots.iter().map(Slot::models_fault);
        let message = faults.next()??.to_string();
        faults
            .all(|fault| fault.is_some())
            .then_some(Failed::ModelNotLoaded { message })
    }

    /// Ends everything that waits where no worker can load the model.
    fn end_waiting_in_vain(&mut self) {
        let Some(failed) = self.not_loaded() else { return };
        for entry in self.queue.take_all() {
            self.metrics.departed(Departure::NoWorker);
            if let Some(sequence) = self.remove(entry.key) {
                sequence.readers.fail(&failed);
            }
        }
    }

    /// Counts a refusal.
    fn refused(&self, rejection: Rejection, failed: Failed) -> Failed {
        self.metrics.rejected(rejection);
        failed
    }

    fn queue_full(&self) -> Failed {
        Failed::QueueFull {
            capacity: self.queue.limits().capacity,
            retry_after: self.pace.retry_after(),
        }
    }

    /// Does everything that is due: deadlines, patience, and sending what can run. Call it after every event.
    pub(super) fn turn(&mut self, now: Instant) {
        for entry in self.queue.take_expired(now) {
            self.metrics.departed(Departure::Expired);
            self.fail(entry.key, CancelReason::Deadline, Failed::DeadlineExceeded);
        }
        while let Some((deadline, key)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.end_reader(key, CancelReason::Deadline, Some(Failed::DeadlineExceeded));
        }
        if let Some(since) = self.without_worker_since {
            for entry in self.queue.take_impatient(since, now) {
                self.metrics.departed(Departure::NoWorker);
                if let Some(sequence) = self.remove(entry.key) {
                    let waited = now.saturating_duration_since(entry.since);
                    sequence.readers.fail(&Failed::NoWorker { waited });
                }
            }
        }
        self.dispatch(now);
    }

    /// Returns when [`Self::turn`] has something to do even if nothing happens.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let impatient = self
            .without_worker_since
            .and_then(|since| self.queue.next_impatient(since));
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        // A pause matters only while somebody waits.
        let waiting = !self.queue.is_empty();
        let pauses = self
            .slots
            .iter()
            .filter(|_| waiting)
            .filter_map(|slot| slot.pause_over(now));
        let held = self
            .held_since
            .map(|since| since + self.hold)
            .filter(|until| *until > now);
        self.queue
            .next_expiry()
            .into_iter()
            .chain(held)
            .chain(impatient)
            .chain(deadline)
            .chain(pauses)
            .min()
    }

    fn dispatch(&mut self, now: Instant) {
        if self.queue.is_empty() {
            self.held_since = None;
            return;
        }
        let slots = self.slots.iter().enumerate();
        let candidates: Vec<_> = slots
            .filter_map(|(index, slot)| slot.candidate(WorkerIndex(index), now))
            .collect();
        if self.is_held(candidates.iter().map(|candidate| candidate.room).sum(), now) {
            return;
        }
        for (entry, choice) in batch::take(&mut self.queue, candidates, &mut *self.policy, now) {
            self.admit(entry, choice, now);
        }
        if self.queue.is_empty() {
            self.held_since = None;
        }
    }

    /// Returns whether what waits is still held back, so that others may start with it: not for long, not where it fills all
    /// room already, and not what had been sent before.
    fn is_held(&mut self, room: u32, now: Instant) -> bool {
        let since = *self.held_since.get_or_insert(now);
        let fills = self.queue.len() as u64 >= room.into() || self.queue.has_returned();
        now < since + self.hold && !fills
    }

    fn admit(&mut self, entry: Entry, choice: Choice, now: Instant) {
        let worker = choice.worker;
        let (Some(sequence), Some(slot)) = (self.sequences.get_mut(&entry.key), self.slots.get_mut(worker.0)) else {
            return;
        };
        let id = SequenceId(self.next_id);
        let admission = Admission {
            id,
            attempt: sequence.attempts + 1,
            request: sequence.request.clone(),
            emitted: sequence.emitted.clone(),
            time_left: entry.deadline.map(|deadline| deadline.saturating_duration_since(now)),
        };
        if slot.admit(entry.key, Command::Admit(Box::new(admission))).is_err() {
            slot.pause(now);
            self.queue.push_returned(entry);
            return;
        }
        self.next_id += 1;
        sequence.attempts += 1;
        if let Some(earliest) = sequence.earliest_start.take() {
            let forecast = if now < earliest {
                Forecast::Early
            } else {
                Forecast::Kept
            };
            self.metrics.forecast(forecast);
        }
        sequence.place = Place::Running(Run {
            worker,
            id,
            sent: now,
            span: Some(dispatch_span(&sequence.request, slot.name(), sequence.attempts)),
            stopping: false,
        });
        self.pace.departed(now);
        self.metrics.departed(Departure::Dispatched);
        self.metrics.placed(choice);
    }

    /// Puts a sequence that had been sent back to the front of the queue. `counted`: the try counts as one.
    fn take_back(&mut self, key: SequenceKey, counted: Counted) {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return;
        };
        if counted == Counted::No {
            sequence.attempts = sequence.attempts.saturating_sub(1);
        }
        sequence.place = Place::Waiting;
        let entry = sequence.entry(key);
        self.queue.push_returned(entry);
    }

    /// Ends a sequence with a failure; its worker is told.
    fn fail(&mut self, key: SequenceKey, reason: CancelReason, failed: Failed) {
        if let Some(sequence) = self.end_early(key, reason) {
            sequence.readers.fail(&failed);
        }
    }

    /// Removes a live sequence; its worker, if it has one, is told and keeps its place occupied until it says the end.
    fn end_early(&mut self, key: SequenceKey, reason: CancelReason) -> Option<Sequence> {
        let told = self.sequences.get(&key)?.run().is_some_and(|run| run.stopping);
        if !told {
            self.tell_cancel(key, reason);
        }
        self.remove(key)
    }

    fn tell_cancel(&self, key: SequenceKey, reason: CancelReason) {
        self.metrics.cancelled(reason);
        let run = self.sequences.get(&key).and_then(Sequence::run);
        if let Some((run, slot)) = run.and_then(|run| Some((run, self.slots.get(run.worker.0)?))) {
            slot.cancel(Command::Cancel(run.id, reason));
        }
    }

    fn remove(&mut self, key: SequenceKey) -> Option<Sequence> {
        let sequence = self.sequences.remove(&key)?;
        self.close_to_others(key, sequence.identity);
        for reader in sequence.readers.iter() {
            self.joined.remove(&reader.key);
            if let Some(deadline) = reader.deadline {
                self.deadlines.remove(&(deadline, reader.key));
            }
        }
        Some(sequence)
    }

    /// Takes nothing more in from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends everything that is left.
    pub(super) fn end_all(&mut self) {
        for _ in self.queue.take_all() {
            self.metrics.departed(Departure::Drained);
        }
        let mut keys: Vec<_> = self.sequences.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            self.fail(key, CancelReason::Shutdown, Failed::Draining);
        }
    }

    pub(super) fn snapshot(&self) -> ModelSnapshot {
        let ready = || self.slots.iter().filter(|slot| slot.is_ready());
        let state = if self.draining {
            ModelState::Draining
        } else if ready().next().is_some() {
            ModelState::Ready
        } else if self.slots.iter().any(Slot::failed_start) {
            ModelState::Failed
        } else {
            ModelState::Loading
        };
        let told = self
            .slots
            .iter()
            .find_map(Slot::message)
            .filter(|_| state != ModelState::Ready);
        let profile = ready().chain(&self.slots).find_map(Slot::profile);
        ModelSnapshot {
            name: self.name.clone(),
            state,
            message: told.cloned(),
            profile: profile.cloned(),
            ready_workers: u32::try_from(ready().count()).unwrap_or(u32::MAX),
            configured_workers: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            max_sequences: ready().map(Slot::most).fold(0, u32::saturating_add),
            workers: self.slots.iter().map(Slot::snapshot).collect(),
        }
    }
}

/// Whether a try that came to nothing counts as one of [`MOST_ATTEMPTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
