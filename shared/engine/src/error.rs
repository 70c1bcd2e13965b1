//! What can end an engine, and what can keep a command from it.

use std::time::Duration;

use crate::model::ModelError;

/// Why the engine could not start or had to stop. The model is dropped in every case; only a new engine can go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gave no thread.
    #[error("cannot start the engine thread")]
    Thread(#[source] std::io::Error),
    /// The model could not be loaded.
    #[error("cannot load the model")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The model is still loading.
    #[error("the model is not loaded after {0:?}")]
    LoadTimeout(Duration),
    /// The model failed while it prepared or ran a step; that step's sequences ended with an error.
    #[error("the model failed in step {step}")]
    Model {
        /// Number of the step.
        step: u64,
        /// What the model said.
        #[source]
        source: ModelError,
    },
    /// The model's result does not answer the plan: a bug in the model.
    #[error("the model's answer to step {step} does not match its plan: {detail}")]
    Output {
        /// Number of the step.
        step: u64,
        /// What differs.
        detail: String,
    },
    /// Sequences are live, no step is open and none can be planned; they ended with an error. A bug in the scheduler, or in a
    /// model whose limits admit nothing.
    #[error("no step can be planned for {running} running and {waiting} waiting sequences")]
    Stalled {
        /// Sequences that have a slot.
        running: u32,
        /// Sequences that have none.
        waiting: u32,
    },
    /// The engine thread panicked: a bug.
    #[error("the engine thread panicked: {0}")]
    Panicked(String),
    /// The engine had been joined before.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a command did not reach the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The command queue is full: the engine is in a long step. Try again after the next frame.
    #[error("the engine's command queue is full")]
    Busy,
    /// The engine has stopped; [`EngineThread::join`](crate::EngineThread::join) says why.
    #[error("the engine has stopped")]
    Stopped,
}
