//! How models and workers are, as health, readiness and ListModels need it. Immutable; a new one for every change of a
//! state, none for changes of load.

use std::sync::Arc;

use tokio::sync::watch;

use super::ModelSetup;
use crate::workers::WorkerProfile;

/// All models in the order of [`ModelIndex`](crate::sequence::ModelIndex).
pub(crate) type Snapshot = Arc<[Arc<ModelSnapshot>]>;

/// Whether a model can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelState {
    /// Its workers are starting.
    Loading,
    /// At least one worker is ready.
    Ready,
    /// No worker is ready, and the last start of one failed.
    Failed,
    /// The service shuts down.
    Draining,
}

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelSnapshot {
    pub(crate) name: Arc<str>,
    pub(crate) state: ModelState,
    /// Why it cannot answer, if it cannot.
    pub(crate) message: Option<Arc<str>>,
    /// A ready worker's, or else the last one's.
    pub(crate) profile: Option<Arc<WorkerProfile>>,
    pub(crate) ready_workers: u32,
    pub(crate) configured_workers: u32,
    /// Sequences that all ready workers together run at once.
    pub(crate) max_sequences: u32,
    pub(crate) workers: Vec<WorkerSnapshot>,
}

/// What a worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// It is being started or reached.
    Starting,
    /// It takes sequences.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It was lost and is tried again later.
    Backoff,
    /// It was asked to stop, and has.
    Stopped,
}

/// One worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkerSnapshot {
    pub(crate) name: Arc<str>,
    pub(crate) state: WorkerState,
    /// Why its last life ended; unset once it is ready again.
    pub(crate) message: Option<Arc<str>>,
    pub(crate) restarts: u32,
    pub(crate) profile: Option<Arc<WorkerProfile>>,
}

impl ModelSnapshot {
    /// Returns how a model is before its loop's first turn.
    pub(super) fn starting(setup: &ModelSetup) -> Self {
        Self {
            name: setup.name.clone(),
            state: ModelState::Loading,
            message: None,
            profile: None,
            ready_workers: 0,
            configured_workers: u32::try_from(setup.workers.len()).unwrap_or(u32::MAX),
            max_sequences: 0,
            workers: Vec::new(),
        }
    }
}

/// Puts one model's snapshot among the others.
#[derive(Debug)]
pub(super) struct Publisher {
    index: usize,
    all: Arc<watch::Sender<Snapshot>>,
}

impl Publisher {
    pub(super) fn new(index: usize, all: Arc<watch::Sender<Snapshot>>) -> Self {
        Self { index, all }
    }

    pub(super) fn publish(&self, model: ModelSnapshot) {
        self.all.send_if_modified(|all| {
            if all.get(self.index).is_some_and(|old| **old == model) {
                return false;
            }
            let mut models = all.to_vec();
            if let Some(place) = models.get_mut(self.index) {
                *place = Arc::new(model);
            }
            *all = models.into();
            true
        });
    }
}
