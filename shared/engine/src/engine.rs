//! The loop: one thread that owns the model from load to drop.

mod handle;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use handle::Command;
pub use handle::{EngineHandle, EngineSession, EngineThread, FrameSink, SinkFull};

use crate::Error;
use crate::model::{Model, ModelLimits};
use crate::scheduler::SchedulerConfig;

/// How an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// What goes into a step.
    pub scheduler: SchedulerConfig,
    /// Commands that may lie unread while a step runs.
    pub command_capacity: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig::default(),
            command_capacity: 4096,
        }
    }
}

/// The loop's state.
#[derive(Debug)]
pub struct Engine<M: Model> {
    model: M,
}

impl<M: Model> Engine<M> {
    /// Starts the thread `engine`, which calls `load`, keeps the model to itself and drops it at the end. Returns at once:
    /// [`EngineThread::wait_loaded`] tells when commands are read.
    ///
    /// # Errors
    /// [`Error::Thread`] where the operating system gives none.
    pub fn spawn<L, E>(config: EngineConfig, load: L) -> Result<EngineThread, Error>
    where
        L: FnOnce() -> Result<M, E> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (commands, inbox) = sync_channel(config.command_capacity);
        let (loaded, on_loaded) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Self::load_and_run(load, &inbox, &loaded))
            .map_err(Error::Thread)?;
        Ok(EngineThread::new(EngineHandle::new(commands), on_loaded, thread))
    }

    fn load_and_run<L, E>(load: L, inbox: &Receiver<Command>, loaded: &SyncSender<ModelLimits>) -> Result<(), Error>
    where
        L: FnOnce() -> Result<M, E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let model = load().map_err(|error| Error::Load(error.into()))?;
        let _ = loaded.send(model.limits().clone());
        let engine = Self { model };
        while let Ok(_command) = inbox.recv() {}
        drop(engine);
        Ok(())
    }
}
