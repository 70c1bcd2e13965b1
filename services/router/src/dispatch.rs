//! The scheduling side as the edge sees it: one task per model takes sequences in, queues them, places them on workers and
//! passes the events back. [`Dispatcher`] is the handle, the loop is in `dispatch/turn.rs`, and the state that it turns, which
//! waits for nothing and reads no clock, in `dispatch/state.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::adaptive::Bounds;
use crate::coalesce::{Coalescing, Identity};
use crate::metrics::{Metrics, ModelMetrics};
use crate::policy::PolicyKind;
use crate::queue::QueueLimits;
use crate::sequence::{Failed, SequenceRequest, SequenceStream, StreamLimits};
use crate::workers::{ExpectedIdentity, WatchdogLimits, WorkerSetup};

mod forecast;
mod moving;
mod pace;
mod slot;
mod snapshot;
mod state;
mod turn;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use snapshot::{ModelSnapshot, ModelState, Snapshot};

/// Submissions that may wait for the loop, which takes each in microseconds.
const SUBMISSIONS: usize = 256;

/// One model to serve.
#[derive(Debug, Clone)]
pub(crate) struct ModelSetup {
    pub(crate) name: Arc<str>,
    pub(crate) identity: ExpectedIdentity,
    pub(crate) queue: QueueLimits,
    pub(crate) policy: PolicyKind,
    /// What a policy draws from.
    pub(crate) seed: u64,
    /// Sequences one worker gets at once, where it can hold as many.
    pub(crate) batch: Bounds,
    /// How long a sequence may be held back until others come to start with it.
    pub(crate) hold: Duration,
    pub(crate) coalescing: Coalescing,
    pub(crate) stream: StreamLimits,
    pub(crate) watchdog: WatchdogLimits,
    pub(crate) workers: Vec<WorkerSetup>,
}

/// A request on its way into a model's loop.
#[derive(Debug)]
struct Submission {
    request: SequenceRequest,
    /// What an identical one has in common with it, where they may share a sequence.
    identity: Option<Identity>,
    reply: oneshot::Sender<Result<SequenceStream, Failed>>,
}

/// Takes sequences for all models. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dispatcher {
    models: Arc<[(mpsc::Sender<Submission>, Coalescing)]>,
    snapshots: watch::Receiver<Snapshot>,
}

/// Owns the loops and through them the workers. Dropping it kills local workers at once; streams end with
/// [`Failed::Draining`].
#[derive(Debug)]
pub(crate) struct Running {
    loops: Vec<(mpsc::Sender<Duration>, AbortOnDropHandle<()>)>,
}

impl Dispatcher {
    /// Starts the workers of `models`, which are in the order of [`ModelIndex`](crate::sequence::ModelIndex). Must be called within a runtime.
    pub(crate) fn start(models: Vec<ModelSetup>, metrics: Arc<Metrics>) -> (Self, Running) {
        let first: Snapshot = models
            .iter()
            .map(|setup| Arc::new(ModelSnapshot::starting(setup)))
            .collect();
        let (publish, snapshots) = watch::channel(first);
        let publish = Arc::new(publish);
        let mut handles = Vec::with_capacity(models.len());
        let mut loops = Vec::with_capacity(models.len());
        for (index, setup) in models.into_iter().enumerate() {
            let (sender, submissions) = mpsc::channel(SUBMISSIONS);
            let (drain, drained) = mpsc::channel(1);
            let ends = turn::Ends {
                submissions,
                drain: drained,
                publish: snapshot::Publisher::new(index, publish.clone()),
            };
            let model_metrics = ModelMetrics::new(metrics.clone(), setup.name.clone());
            let coalescing = setup.coalescing;
            let running = tokio::spawn(turn::run(setup, model_metrics, ends));
            handles.push((sender, coalescing));
            loops.push((drain, AbortOnDropHandle::new(running)));
        }
        let dispatcher = Self {
            models: handles.into(),
            snapshots,
        };
        (dispatcher, Running { loops })
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// [`Failed::QueueFull`], [`Failed::TenantQueueFull`], [`Failed::CannotStart`], [`Failed::Draining`] or
    /// [`Failed::DeadlineExceeded`], at once.
    ///
    /// # Cancellation
    /// A sequence that was queued meanwhile leaves the queue again.
    pub(crate) async fn submit(&self, request: SequenceRequest) -> Result<SequenceStream, Failed> {
        // An index comes from the same configuration as the handles; without one there is nothing to wait for.
        let (model, coalescing) = self.models.get(request.model.0).ok_or(Failed::Draining)?;
        let identity = coalescing.identity(&request);
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            request,
            identity,
            reply,
        };
        model.send(submission).await.map_err(|_| Failed::Draining)?;
        answer.await.unwrap_or(Err(Failed::Draining))
    }

    /// Returns how all models and their workers are.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    /// Returns the snapshot as it changes, for health and readiness.
    pub(crate) fn changes(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }
}

impl Running {
    /// Waits until a model's loop ends without having been asked to, which only a mistake of ours can make it do. Its
    /// requests would be refused from then on while its state still read as before. Not to be called again once it is ready.
    pub(crate) async fn failed(&mut self) {
        let loops = self.loops.iter_mut().map(|(_, running)| running);
        let (ended, ..) = futures::future::select_all(loops).await;
        if let Err(error) = ended {
            tracing::error!(%error, "a model's loop failed");
        }
    }

    /// Takes nothing more in, finishes what there is until `timeout`, ends the rest with [`Failed::Draining`], then stops
    /// the workers: Drain, SIGTERM and SIGKILL, each after the grace the worker is configured with.
    pub(crate) async fn drain(self, timeout: Duration) {
        let mut loops = Vec::with_capacity(self.loops.len());
        for (drain, running) in self.loops {
            // Fails only where the loop has ended already.
            let _ = drain.try_send(timeout);
            loops.push(running);
        }
        for running in loops {
            if let Err(error) = running.await {
                tracing::error!(%error, "a model's loop failed");
            }
        }
    }
}
