//! How other threads talk to the engine. Nothing here blocks, except the two waits of [`EngineThread`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use kr_contract::SequenceId;

use super::WarmUp;
use crate::frame::StepFrame;
use crate::model::ModelLimits;
use crate::{CommandError, Error, SequenceRequest};

/// Where the engine puts its frames. Called on the engine thread: must not block.
pub trait FrameSink: Send {
    /// Takes one frame.
    ///
    /// # Errors
    /// [`SinkFull`] ends the session: the engine drops this sink and cancels all its sequences.
    fn try_deliver(&mut self, frame: StepFrame) -> Result<(), SinkFull>;
}

/// The sink has no room (its reader is too slow) or no reader any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame sink is full or closed")]
pub struct SinkFull;

/// One attached sink's life. A command of an older session than the attached one is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct SessionId(u64);

/// Everything that can happen to the loop.
pub(super) enum Command {
    Attach {
        session: SessionId,
        sink: Box<dyn FrameSink>,
    },
    Detach {
        session: SessionId,
    },
    Admit {
        session: SessionId,
        request: SequenceRequest,
    },
    Cancel {
        session: SessionId,
        id: SequenceId,
    },
    Drain {
        deadline: Duration,
    },
    Shutdown,
}

#[derive(Debug, Clone)]
struct Commands(SyncSender<Command>);

impl Commands {
    fn send(&self, command: Command) -> Result<(), CommandError> {
        self.0.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => CommandError::Busy,
            TrySendError::Disconnected(_) => CommandError::Stopped,
        })
    }
}

/// Sends commands to the engine. Cheap to clone. The engine also stops when the last handle and session are dropped.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: Commands,
    sessions: Arc<AtomicU64>,
}

impl EngineHandle {
    pub(super) fn new(commands: SyncSender<Command>) -> Self {
        Self {
            commands: Commands(commands),
            sessions: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Makes `sink` the receiver of all frames. Sequences of the session before are cancelled, without a word to either.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn attach(&self, sink: Box<dyn FrameSink>) -> Result<EngineSession, CommandError> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        self.commands.send(Command::Attach { session, sink })?;
        Ok(EngineSession {
            commands: self.commands.clone(),
            session,
        })
    }

    /// Admits nothing more, finishes what there is, then stops. What is left after `deadline` ends with an error.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn drain(&self, deadline: Duration) -> Result<(), CommandError> {
        self.commands.send(Command::Drain { deadline })
    }

    /// Stops after the steps already submitted; sequences that are left get no further frame.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn shutdown(&self) -> Result<(), CommandError> {
        self.commands.send(Command::Shutdown)
    }
}

/// The right to admit sequences, bound to one sink. Dropping it detaches the sink and cancels what it admitted.
#[derive(Debug)]
pub struct EngineSession {
    commands: Commands,
    session: SessionId,
}

impl EngineSession {
    /// Sends a sequence to the engine; a coming frame names it as accepted or rejected.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn admit(&self, request: SequenceRequest) -> Result<(), CommandError> {
        self.commands.send(Command::Admit {
            session: self.session,
            request,
        })
    }

    /// Ends a sequence: it is in no step planned after the engine reads this. Unknown and finished ones are ignored.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn cancel(&self, id: SequenceId) -> Result<(), CommandError> {
        self.commands.send(Command::Cancel {
            session: self.session,
            id,
        })
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        // Where the queue is full, the sink's reader is gone as well and the next frame ends the session.
        let _ = self.commands.send(Command::Detach { session: self.session });
    }
}

/// What is known once a model is ready.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) limits: ModelLimits,
    pub(super) warm_up: Option<WarmUp>,
}

/// Owns the engine's thread.
pub struct EngineThread {
    handle: EngineHandle,
    loaded: Receiver<Loaded>,
    warm_up: Option<WarmUp>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl fmt::Debug for EngineThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineThread").finish_non_exhaustive()
    }
}

impl EngineThread {
    pub(super) fn new(handle: EngineHandle, loaded: Receiver<Loaded>, thread: JoinHandle<Result<(), Error>>) -> Self {
        Self {
            handle,
            loaded,
            warm_up: None,
            thread: Some(thread),
        }
    }

    /// Returns a handle; it works while the model is still loading.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Blocks until the model is loaded, and warmed up where that is configured, and returns what it can hold. Answers once.
    ///
    /// # Errors
    /// [`Error::LoadTimeout`] when it takes longer: ask again or give up. [`Error::Load`] or [`Error::Panicked`] when it
    /// failed; the thread is gone then.
    pub fn wait_loaded(&mut self, timeout: Duration) -> Result<ModelLimits, Error> {
        match self.loaded.recv_timeout(timeout) {
            Ok(Loaded { limits, warm_up }) => {
                self.warm_up = warm_up;
                Ok(limits)
            }
            Err(RecvTimeoutError::Timeout) => Err(Error::LoadTimeout(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(self.join_thread().err().unwrap_or(Error::Stopped)),
        }
    }

    /// Returns how fast the model was when it warmed up; `None` before [`Self::wait_loaded`] and where it did not.
    #[must_use]
    pub fn warm_up(&self) -> Option<WarmUp> {
        self.warm_up
    }

    /// Returns whether the thread has ended, so that [`Self::join`] will not block.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Blocks until the engine has stopped and the model is dropped. Does not stop it: see [`EngineHandle::drain`] and
    /// [`EngineHandle::shutdown`]. A step that runs cannot be interrupted, so the caller sets the deadline, by leaving the
    /// process.
    ///
    /// # Errors
    /// Why it stopped, unless it was asked to.
    pub fn join(self) -> Result<(), Error> {
        let Self {
            handle,
            loaded: _,
            warm_up: _,
            mut thread,
        } = self;
        drop(handle);
        thread.take().map_or(Err(Error::Stopped), join)
    }

    fn join_thread(&mut self) -> Result<(), Error> {
        self.thread.take().map_or(Err(Error::Stopped), join)
    }
}

fn join(thread: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    thread.join().unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Err(Error::Panicked(text.unwrap_or_else(|| "no message".into())))
    })
}
