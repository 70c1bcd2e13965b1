//! The loop of one model: waits for the next event, lets the state take it in, and does what is due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::snapshot::Publisher;
use super::state::State;
use super::{ModelSetup, Submission};
use crate::clock;
use crate::metrics::ModelMetrics;
use crate::policy::WorkerIndex;
use crate::sequence::{CancelReason, Cancellations, Failed, SequenceKey};
use crate::workers::identity::Identity;
use crate::workers::supervisor::{Notices, Supervisor};
use crate::workers::{Notice, WorkerEvent};

/// News of workers that may wait for the loop. A session that finds no room waits, and its worker's frames with it.
const NOTICES: usize = 256;

/// Where a loop's work comes from and its state goes to.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) drain: mpsc::Receiver<Duration>,
    pub(super) publish: Publisher,
}

/// Everything that can happen to a model.
enum Event {
    Submitted(Submission),
    Cancelled(Vec<(SequenceKey, CancelReason)>),
    Worker(Notice),
    Due,
    Drain(Duration),
}

/// Serves one model until it is drained.
pub(super) async fn run(setup: ModelSetup, metrics: ModelMetrics, ends: Ends) {
    let state = State::new(&setup, metrics.clone(), clock::now());
    let (sender, notices) = mpsc::channel(NOTICES);
    let stop = CancellationToken::new();
    let supervisors = supervise(&setup, &metrics, sender, &stop);
    let mut model = Model {
        cancellations: state.cancellations().clone(),
        state,
        ends,
        notices,
        supervisors,
        stop,
        drain_until: None,
        metrics,
        reported: Reported::default(),
    };
    while !model.is_drained() {
        let event = model.next().await;
        model.take_in(event);
    }
    model.stop().await;
}

fn supervise(
    setup: &ModelSetup,
    metrics: &ModelMetrics,
    sender: mpsc::Sender<Notice>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let identity = Arc::new(Identity::new(setup.identity.clone()));
    let mut supervisors = JoinSet::new();
    for (index, worker) in setup.workers.iter().enumerate() {
        let supervisor = Supervisor {
            notices: Notices {
                worker: WorkerIndex(index),
                name: worker.name.clone(),
                sender: sender.clone(),
            },
            identity: identity.clone(),
            watchdog: setup.watchdog,
            metrics: metrics.worker(worker.name.clone()),
            stop: stop.clone(),
            setup: worker.clone(),
        };
        supervisors.spawn(supervisor.run(random));
    }
    supervisors
}

/// Returns a number uniform in [0, 1).
fn random() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float64 exactly")]
    getrandom::u64().map_or(0.5, |bits| (bits >> 11) as f64 / (1_u64 << 53) as f64)
}

#[derive(Debug)]
struct Model {
    state: State,
    ends: Ends,
    cancellations: Arc<Cancellations>,
    notices: mpsc::Receiver<Notice>,
    supervisors: JoinSet<()>,
    stop: CancellationToken,
    drain_until: Option<Instant>,
    metrics: ModelMetrics,
    reported: Reported,
}

/// Gauges as last recorded.
#[derive(Debug, Default, PartialEq)]
struct Reported {
    waiting: usize,
    tenants: usize,
    running: Vec<usize>,
}

impl Model {
    async fn next(&mut self) -> Event {
        let due = self
            .state
            .next_due(clock::now())
            .into_iter()
            .chain(self.drain_until)
            .min();
        tokio::select! {
            Some(notice) = self.notices.recv() => Event::Worker(notice),
            Some(submission) = self.ends.submissions.recv() => Event::Submitted(submission),
            cancelled = self.cancellations.taken() => Event::Cancelled(cancelled),
            Some(timeout) = self.ends.drain.recv() => Event::Drain(timeout),
            () = clock::reached(due) => Event::Due,
        }
    }

    fn take_in(&mut self, event: Event) {
        let now = clock::now();
        let mut changed = false;
        match event {
            Event::Submitted(submission) => {
                let answer = self.state.submit(submission.request, submission.identity, now);
                // A caller who is gone drops the stream, which cancels the sequence.
                let _ = submission.reply.send(answer);
            }
            Event::Cancelled(cancelled) => {
                for (key, reason) in cancelled {
                    self.state.cancel(key, reason);
                }
            }
            Event::Worker(notice) => {
                changed = !matches!(notice.event, WorkerEvent::Frame(_));
                self.state.notice(notice, now);
            }
            Event::Due => {}
            Event::Drain(timeout) => {
                changed = true;
                self.drain_until = Some(now + timeout);
                self.state.drain();
            }
        }
        self.state.turn(now);
        self.report();
        if changed {
            self.ends.publish.publish(self.state.snapshot());
        }
    }

    fn report(&mut self) {
        let slots = self.state.slots();
        if self.reported.waiting != self.state.waiting() {
            self.reported.waiting = self.state.waiting();
            self.metrics.waiting(self.reported.waiting);
        }
        if self.reported.tenants != self.state.waiting_tenants() {
            self.reported.tenants = self.state.waiting_tenants();
            self.metrics.waiting_tenants(self.reported.tenants);
        }
        self.reported.running.resize(slots.len(), 0);
        for (slot, reported) in slots.iter().zip(&mut self.reported.running) {
            if *reported != slot.in_flight() {
                *reported = slot.in_flight();
                slot.metrics().running(*reported);
            }
        }
    }

    fn is_drained(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        self.state.is_empty() || until <= clock::now()
    }

    /// Ends what is left and the workers. Each supervisor bounds its own wait.
    async fn stop(mut self) {
        self.ends.submissions.close();
        while let Ok(submission) = self.ends.submissions.try_recv() {
            let _ = submission.reply.send(Err(Failed::Draining));
        }
        self.state.end_all();
        self.stop.cancel();
        while !self.supervisors.is_empty() {
            tokio::select! {
                Some(notice) = self.notices.recv() => self.state.notice(notice, clock::now()),
                Some(joined) = self.supervisors.join_next() => {
                    if let Err(error) = joined {
                        tracing::error!(%error, "a worker's supervisor failed");
                    }
                }
            }
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.state.notice(notice, clock::now());
        }
        self.report();
        self.ends.publish.publish(self.state.snapshot());
    }
}
