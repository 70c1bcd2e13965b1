//! The real scheduling state against workers and clients that exist in virtual time only: what a policy does in an hour of
//! traffic shows within a second, the same on every machine.

#[expect(clippy::cast_possible_truncation, reason = "lengths of a trace are small")]
mod trace;
mod worker;

mod replay;
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use kr_contract::{FinishReason, RequestId, TokenId};
use tokio::sync::mpsc;

use super::ModelSetup;
use super::state::State;
use super::testing::{metrics, request, setup};
use crate::coalesce::Coalescing;
use crate::convert_worker::profile;
use crate::metrics::ModelMetrics;
use crate::policy::WorkerIndex;
use crate::sequence::{Failed, Priority, SequenceEvent, SequenceRequest, SequenceStream, Tenant};
use crate::workers::fake::hello;
use crate::workers::{Address, Notice, Ready, WorkerEvent};
use worker::{Pace, Worker};

/// One request of a trace.
#[derive(Debug, Clone)]
struct Arrival {
    /// Since the beginning.
    at: Duration,
    tenant: usize,
    priority: Priority,
    prompt: Arc<[TokenId]>,
    max_tokens: u32,
    /// How many it really generates; up to `max_tokens`.
    answer_tokens: u32,
    patience: Option<Duration>,
    /// May share an identical one's answer.
    shared: bool,
}

impl Default for Arrival {
    fn default() -> Self {
        Self {
            at: Duration::ZERO,
            tenant: 0,
            priority: Priority::Normal,
            prompt: Arc::from([1, 2, 3]),
            max_tokens: 100,
            answer_tokens: 100,
            patience: None,
            shared: false,
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Finished,
    /// Refused because it could not start in time.
    Shed,
    /// Its deadline passed.
    Late,
    Refused,
}

/// What a client saw; times since the beginning.
#[derive(Debug)]
struct Seen {
    fate: Fate,
    /// When it was sent to a worker.
    sent: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Option<Duration>,
    tokens: u32,
    stream: Option<SequenceStream>,
}

/// A model, its workers and its clients.
struct Simulation {
    state: State,
    begin: Instant,
    now: Instant,
    arrivals: Arc<[Arrival]>,
    seen: Vec<Seen>,
    /// Those whose stream has not ended.
    open: Vec<usize>,
    workers: Vec<Worker>,
}

impl Simulation {
    /// Makes a model with a worker for each of `paces`, all ready.
    fn new(paces: Vec<Pace>, arrivals: Vec<Arrival>, change: impl FnOnce(&mut ModelSetup)) -> Self {
        let addresses = vec![Address::Tcp("nowhere:1".into()); paces.len()];
        let mut setup = setup(&addresses);
        setup.queue.capacity = 100_000;
        change(&mut setup);
        let begin = Instant::now();
        let arrivals: Arc<[Arrival]> = arrivals.into();
        let mut simulation = Self {
            state: State::new(&setup, ModelMetrics::new(metrics(), "model".into()), begin),
            begin,
            now: begin,
            arrivals: arrivals.clone(),
            seen: Vec::new(),
            open: Vec::new(),
            workers: Vec::new(),
        };
        for (index, pace) in paces.into_iter().enumerate() {
            let (sender, commands) = mpsc::channel(100_000);
            let mut hello = hello("m", "t");
            if let Some(profile) = &mut hello.worker {
                profile.max_sequences = pace.places;
                profile.kv_budget_bytes = 1 << 40;
                profile.block_tokens = worker::BLOCK_TOKENS;
                profile.hash_scheme = kr_contract::HASH_SCHEME.to_owned();
            }
            let ready = Ready {
                profile: Arc::new(profile(hello).unwrap()),
                commands: sender,
            };
            let worker = WorkerIndex(index);
            let event = WorkerEvent::Ready(ready);
            simulation.state.notice(Notice { worker, event }, begin);
            simulation.workers.push(Worker::new(pace, commands, arrivals.clone()));
        }
        simulation
    }

    /// Runs until nothing is left to do.
    fn run(&mut self) {
        loop {
            let arrival = self
                .arrivals
                .get(self.seen.len())
                .map(|arrival| self.begin + arrival.at);
            let steps = self.workers.iter().filter_map(Worker::step_end);
            let due = self.state.next_due(self.now);
            let Some(next) = steps.chain(arrival).chain(due).min() else {
                break;
            };
            self.now = next;
            if arrival == Some(next) {
                self.arrive();
            }
            for index in 0..self.workers.len() {
                if let Some(frame) = self.workers[index].finish_step(self.now) {
                    let (worker, event) = (WorkerIndex(index), WorkerEvent::Frame(frame));
                    self.state.notice(Notice { worker, event }, self.now);
                }
            }
            self.state.turn(self.now);
            self.read();
            self.workers.iter_mut().for_each(|worker| worker.start_step(self.now));
        }
    }

    fn arrive(&mut self) {
        let index = self.seen.len();
        let arrival = &self.arrivals[index];
        let request = SequenceRequest {
            request_id: RequestId(index as u128),
            tenant: Tenant(Arc::from(arrival.tenant.to_string())),
            priority: arrival.priority,
            prompt: arrival.prompt.clone(),
            arrived: self.now,
            deadline: arrival.patience.map(|patience| self.now + patience),
            shared_under: arrival.shared.then(|| "".into()),
            ..request(arrival.max_tokens)
        };
        let identity = Coalescing::default().identity(&request);
        let (fate, stream) = match self.state.submit(request, identity, self.now) {
            Ok(stream) => (Fate::Open, Some(stream)),
            Err(Failed::CannotStart { .. }) => (Fate::Shed, None),
            Err(_) => (Fate::Refused, None),
        };
        self.open.extend(stream.is_some().then_some(index));
        self.seen.push(Seen {
            fate,
            sent: None,
            first_token: None,
            last_token: None,
            tokens: 0,
            stream,
        });
    }

    /// Lets every client read what there is.
    fn read(&mut self) {
        let now = self.now.saturating_duration_since(self.begin);
        self.open.retain(|index| {
            let (seen, arrival) = (&mut self.seen[*index], &self.arrivals[*index]);
            let Some(stream) = &mut seen.stream else { return false };
            while let Some(Some(event)) = stream.recv().now_or_never() {
                match event {
                    SequenceEvent::Accepted(accepted) => seen.sent = Some(arrival.at + accepted.queue_time),
                    SequenceEvent::Tokens(tokens) => {
                        seen.first_token.get_or_insert(now);
                        seen.last_token = Some(now);
                        seen.tokens += u32::try_from(tokens.ids.len()).unwrap();
                    }
                    SequenceEvent::Finished(finished) => {
                        assert_ne!(finished.reason, FinishReason::Cancelled);
                        seen.fate = Fate::Finished;
                    }
                    SequenceEvent::Failed(Failed::DeadlineExceeded) => seen.fate = Fate::Late,
                    SequenceEvent::Failed(_) => seen.fate = Fate::Refused,
                    SequenceEvent::PromptLogprobs(_) => {}
                }
            }
            if seen.fate != Fate::Open {
                seen.stream = None;
            }
            seen.fate == Fate::Open
        });
    }

    /// Returns how many sequences each worker should have by now.
    fn limits(&self) -> Vec<u32> {
        self.state.slots().iter().map(super::slot::Slot::capacity).collect()
    }

    /// Returns the times from arrival to the first token, the shortest first.
    fn first_token_times(&self) -> Vec<Duration> {
        let seen = self.seen.iter().zip(&*self.arrivals);
        let mut times: Vec<_> = seen
            .filter_map(|(seen, arrival)| Some(seen.first_token? - arrival.at))
            .collect();
        times.sort_unstable();
        times
    }

    /// Counts requests with a fate.
    fn count(&self, fate: Fate) -> usize {
        self.seen.iter().filter(|seen| seen.fate == fate).count()
    }
}
