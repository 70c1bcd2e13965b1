//! Any history of clients, workers and time against the state, without a loop, a clock or a socket.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use kr_contract::FinishReason;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::coalesce::Coalescing;
use crate::convert_worker::profile;
use crate::dispatch::testing::{metrics, request, setup};
use crate::sequence::{Finished, SequenceEvent, Tokens};
use crate::workers::fake::hello;
use crate::workers::{Address, End, Frame, LossCause, Notice, Ready, RejectReason, Rejected, Update, WorkerEvent};

const WORKERS: usize = 2;
/// What the hello of a fake worker says it holds.
const CAPACITY: usize = 2;

/// One thing that may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Submit { patience_ms: Option<u8>, shared: bool },
    Read(u8),
    Leave(u8),
    StopText(u8),
    Ready(u8),
    Lose(u8),
    Accept(u8),
    Generate(u8, u8),
    Finish(u8, u8),
    Reject(u8, u8, RejectReason),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(RejectReason::Busy),
        Just(RejectReason::Draining),
        Just(RejectReason::Final)
    ];
    prop_oneof![
        5 => (proptest::option::of(0..200_u8), any::<bool>())
            .prop_map(|(patience_ms, shared)| Step::Submit { patience_ms, shared }),
        5 => any::<u8>().prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Leave),
        1 => any::<u8>().prop_map(Step::StopText),
        3 => any::<u8>().prop_map(Step::Ready),
        1 => any::<u8>().prop_map(Step::Lose),
        2 => any::<u8>().prop_map(Step::Accept),
        6 => any::<(u8, u8)>().prop_map(|(worker, which)| Step::Generate(worker, which)),
        3 => any::<(u8, u8)>().prop_map(|(worker, which)| Step::Finish(worker, which)),
        1 => (any::<u8>(), any::<u8>(), reason).prop_map(|(worker, which, reason)| Step::Reject(worker, which, reason)),
        2 => any::<u8>().prop_map(Step::Wait),
    ]
}

/// A client, and what it has seen.
struct Client {
    stream: SequenceStream,
    accepted: bool,
    tokens: u32,
    ended: bool,
    stop_text: bool,
}

impl Client {
    /// Reads everything there is; every event must be one that may come now.
    fn read(&mut self) {
        while let Some(event) = self.stream.recv().now_or_never() {
            let Some(event) = event else {
                assert!(self.ended || self.stop_text, "closed, which nobody asked for");
                self.ended = true;
                break;
            };
            assert!(!self.ended, "{event:?} after the end");
            match event {
                SequenceEvent::Accepted(accepted) => {
                    assert_eq!(self.tokens, 0, "moved after tokens");
                    assert!((1..=MOST_ATTEMPTS).contains(&accepted.attempts));
                    self.accepted = true;
                }
                SequenceEvent::PromptLogprobs(_) => panic!("nobody asked for them"),
                SequenceEvent::Tokens(tokens) => {
                    assert!(self.accepted, "tokens of a sequence that no worker took");
                    assert_eq!(tokens.start_index, self.tokens, "a gap or a repeat");
                    self.tokens += u32::try_from(tokens.ids.len()).unwrap();
                }
                SequenceEvent::Finished(finished) => {
                    let by_itself = finished.reason != FinishReason::Cancelled;
                    assert!(by_itself || self.stop_text, "cancelled, which nobody asked for");
                    self.ended = true;
                }
                SequenceEvent::Failed(_) => self.ended = true,
            }
        }
    }
}

/// A worker with an open session: what it runs, how many tokens of each it has sent, and whether each was cancelled.
struct Worker {
    commands: mpsc::Receiver<Command>,
    running: BTreeMap<SequenceId, (u32, bool)>,
}

impl Worker {
    fn read(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Admit(admission) => {
                    assert!(admission.emitted.is_empty(), "nothing is replayed yet");
                    assert!(self.running.insert(admission.id, (0, false)).is_none(), "an id twice");
                }
                Command::Cancel(id, _) => {
                    if let Some((_, cancelled)) = self.running.get_mut(&id) {
                        assert!(!*cancelled, "cancelled twice");
                        *cancelled = true;
                    }
                }
            }
        }
    }

    fn chosen(&self, which: u8) -> Option<SequenceId> {
        let count = self.running.len();
        (count > 0).then(|| *self.running.keys().nth(usize::from(which) % count).unwrap())
    }
}

struct World {
    state: State,
    now: Instant,
    clients: Vec<Client>,
    workers: [Option<Worker>; WORKERS],
}

fn finished(reason: FinishReason) -> Box<Finished> {
    Box::new(Finished {
        reason,
        waiting: Duration::ZERO,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
        mean_batch_size: 1.0,
        max_batch_size: 1,
        cached_tokens: 0,
        copied_bytes: 0,
        copy_time: Duration::ZERO,
        preemptions: 0,
    })
}

impl World {
    fn new() -> Self {
        let address = Address::Tcp("nowhere:1".into());
        let mut setup = setup(&[address.clone(), address]);
        setup.queue.capacity = 4;
        setup.queue.max_wait_without_worker = Duration::from_millis(300);
        setup.stream.unread_tokens = 3;
        let now = Instant::now();
        Self {
            state: State::new(&setup, ModelMetrics::new(metrics(), "model".into()), now),
            now,
            clients: Vec::new(),
            workers: [None, None],
        }
    }

    fn notice(&mut self, worker: usize, event: WorkerEvent) {
        let worker = WorkerIndex(worker);
        self.state.notice(Notice { worker, event }, self.now);
    }

    fn update(&mut self, worker: usize, update: Update) {
        let updates = vec![update];
        self.notice(
            worker,
            WorkerEvent::Frame(Frame {
                updates,
                ..Frame::default()
            }),
        );
    }

    fn client(&mut self, which: u8) -> Option<usize> {
        let count = self.clients.len();
        (count > 0).then(|| usize::from(which) % count)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Submit { patience_ms, shared } => self.submit(patience_ms, shared),
            Step::Read(which) => {
                if let Some(index) = self.client(which) {
                    self.clients[index].read();
                }
            }
            Step::Leave(which) => {
                if let Some(index) = self.client(which) {
                    self.clients.remove(index);
                }
            }
            Step::StopText(which) => {
                let index = self.client(which);
                if let Some(client) = index.map(|index| &mut self.clients[index])
                    && client.tokens > 0
                    && !std::mem::replace(&mut client.stop_text, true)
                {
                    client.stream.stop_text_found();
                }
            }
            Step::Wait(milliseconds) => self.now += Duration::from_millis(milliseconds.into()),
            Step::Ready(worker) => self.ready(usize::from(worker) % WORKERS),
            Step::Lose(worker) => self.lose(usize::from(worker) % WORKERS),
            Step::Accept(worker) => {
                let worker = usize::from(worker) % WORKERS;
                let accepted = self.workers[worker].as_ref();
                let accepted = accepted.map(|worker| worker.running.keys().copied().collect());
                let frame = accepted.map(|accepted| Frame {
                    accepted,
                    ..Frame::default()
                });
                frame
                    .into_iter()
                    .for_each(|frame| self.notice(worker, WorkerEvent::Frame(frame)));
            }
            Step::Generate(worker, which) => self.generate(usize::from(worker) % WORKERS, which),
            Step::Finish(worker, which) => self.finish(usize::from(worker) % WORKERS, which),
            Step::Reject(worker, which, reason) => self.reject(usize::from(worker) % WORKERS, (which, reason)),
        }
    }

    fn submit(&mut self, patience_ms: Option<u8>, shared: bool) {
        let deadline = patience_ms.map(|patience| self.now + Duration::from_millis(patience.into()));
        let request = SequenceRequest {
            arrived: self.now,
            deadline,
            shared_under: shared.then(|| "".into()),
            ..request(100)
        };
        let identity = Coalescing::default().identity(&request);
        let full = self.state.waiting() >= 4;
        match self.state.submit(request, identity, self.now) {
            Ok(stream) => self.clients.push(Client {
                stream,
                accepted: false,
                tokens: 0,
                ended: false,
                stop_text: false,
            }),
            Err(Failed::QueueFull { .. }) => assert!(full),
            Err(Failed::DeadlineExceeded) => assert_eq!(patience_ms, Some(0)),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn ready(&mut self, worker: usize) {
        if self.workers[worker].is_none() {
            let (sender, commands) = mpsc::channel(64);
            self.workers[worker] = Some(Worker {
                commands,
                running: BTreeMap::new(),
            });
            let ready = Ready {
                profile: Arc::new(profile(hello("m", "t")).unwrap()),
                commands: sender,
            };
            self.notice(worker, WorkerEvent::Ready(ready));
        }
    }

    fn lose(&mut self, worker: usize) {
        if self.workers[worker].take().is_some() {
            self.notice(worker, WorkerEvent::Lost);
            let (message, cause) = ("gone".into(), LossCause::Signal);
            self.notice(worker, WorkerEvent::Backoff { message, cause });
        }
    }

    fn generate(&mut self, worker: usize, which: u8) {
        let Some(at) = &mut self.workers[worker] else { return };
        let Some(id) = at.chosen(which) else { return };
        let (sent, _) = at.running.get_mut(&id).unwrap();
        let tokens = Tokens {
            start_index: *sent,
            ids: vec![7],
            logprobs: Vec::new(),
        };
        *sent += 1;
        let prompt_logprobs = Vec::new();
        let update = Update {
            id,
            prompt_logprobs,
            tokens,
            end: None,
        };
        self.update(worker, update);
    }

    fn finish(&mut self, worker: usize, which: u8) {
        let Some(at) = &mut self.workers[worker] else { return };
        let Some(id) = at.chosen(which) else { return };
        let (start_index, cancelled) = at.running.remove(&id).unwrap();
        let end = if cancelled {
            End::Cancelled(finished(FinishReason::Cancelled))
        } else {
            End::Finished(finished(FinishReason::Length))
        };
        let tokens = Tokens {
            start_index,
            ..Tokens::default()
        };
        let end = Some(end);
        let prompt_logprobs = Vec::new();
        let update = Update {
            id,
            prompt_logprobs,
            tokens,
            end,
        };
        self.update(worker, update);
    }

    fn reject(&mut self, worker: usize, (which, reason): (u8, RejectReason)) {
        let Some(at) = &mut self.workers[worker] else { return };
        let fresh = at.chosen(which).filter(|id| at.running[id].0 == 0);
        let Some(id) = fresh else { return };
        at.running.remove(&id);
        let rejected = Rejected {
            id,
            reason,
            message: "no".into(),
        };
        self.notice(worker, WorkerEvent::Rejected(rejected));
    }

    /// What the loop does after every event; then the workers read.
    fn turn(&mut self) {
        let cancelled = self.state.cancellations().clone();
        let cancelled = cancelled.taken().now_or_never().unwrap_or_default();
        for (key, reason) in cancelled {
            self.state.cancel(key, reason);
        }
        self.state.turn(self.now);
        self.workers.iter_mut().flatten().for_each(Worker::read);
    }

    fn check(&self) {
        let state = &self.state;
        let runs: Vec<_> = state.sequences.values().filter_map(Sequence::run).collect();
        assert_eq!(
            state.sequences.len(),
            runs.len() + state.queue.len(),
            "lost between queue and workers"
        );
        for (index, slot) in state.slots.iter().enumerate() {
            let held = self.workers[index].as_ref().map_or(0, |worker| worker.running.len());
            assert_eq!(slot.in_flight(), held, "places of worker {index}");
            assert!(held <= CAPACITY, "more than worker {index} holds");
        }
        for run in &runs {
            assert!(
                state.slots[run.worker.0].key_of(run.id).is_some(),
                "runs where it has no place"
            );
        }
        let live = state
            .sequences
            .values()
            .filter(|sequence| sequence.run().is_none_or(|run| !run.stopping));
        let readers = live.flat_map(|sequence| sequence.readers.iter());
        let timed = readers.filter_map(|reader| Some((reader.deadline?, reader.key)));
        assert_eq!(
            state.deadlines,
            timed.collect(),
            "deadlines of whoever still waits for tokens"
        );
        for (key, sequence) in &state.sequences {
            assert!(sequence.readers.count() > 0, "runs for nobody");
            for reader in sequence.readers.iter() {
                assert_eq!(state.joined.get(&reader.key).unwrap_or(&reader.key), key);
            }
        }
        let joined = state.sequences.values().flat_map(|sequence| sequence.readers.iter());
        let joined = joined.filter(|reader| reader.joined == Joined::Later).count();
        assert_eq!(state.joined.len(), joined, "readers of what has ended");
        assert!(state.shared.values().all(|key| state.sequences.contains_key(key)));
        let due = state.next_due(self.now);
        assert!(due.is_none_or(|due| due > self.now), "something due was left undone");
    }

    /// Ends it all, as a drain that is out of time does.
    fn end(mut self) {
        self.state.end_all();
        assert!(self.state.is_empty() && self.state.queue.is_empty() && self.state.deadlines.is_empty());
        for client in &mut self.clients {
            client.read();
            assert!(client.ended, "a stream without an end");
        }
        self.turn();
        for worker in 0..WORKERS {
            while self.workers[worker]
                .as_ref()
                .is_some_and(|worker| !worker.running.is_empty())
            {
                self.finish(worker, 0);
            }
            assert_eq!(self.state.slots[worker].in_flight(), 0);
        }
    }
}

proptest! {
    #[test]
    fn any_history_keeps_every_place_accounted_for_and_ends_every_stream(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
            world.turn();
            world.check();
        }
        world.end();
    }
}

#[test]
fn where_no_worker_can_load_the_model_nobody_waits() {
    let address = Address::Tcp("nowhere:1".into());
    let setup = setup(&[address.clone(), address]);
    let now = Instant::now();
    let mut state = State::new(&setup, ModelMetrics::new(metrics(), "model".into()), now);
    let fail = |state: &mut State, worker, cause| {
        let message = "config.json is broken".into();
        let event = WorkerEvent::Backoff { message, cause };
        let worker = WorkerIndex(worker);
        state.notice(Notice { worker, event }, now);
    };
    let mut waiting = state.submit(request(1), None, now).unwrap();
    fail(&mut state, 0, LossCause::ModelNotLoaded);
    assert!(waiting.recv().now_or_never().is_none(), "the other worker may load it");
    fail(&mut state, 1, LossCause::ModelNotLoaded);
    let failed = Failed::ModelNotLoaded {
        message: "config.json is broken".to_owned(),
    };
    let ended = waiting.recv().now_or_never().flatten();
    assert_eq!(ended, Some(SequenceEvent::Failed(failed.clone())));
    assert_eq!(state.submit(request(1), None, now).unwrap_err(), failed);
    fail(&mut state, 0, LossCause::Signal);
    assert!(
        state.submit(request(1), None, now).is_ok(),
        "one of them failed for another reason"
    );
}
