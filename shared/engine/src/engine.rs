//! The loop: one thread that owns the model from load to drop. It reads commands between steps, has the scheduler plan,
//! the model run, and the sink take one frame per step. Idle, it sleeps in the command queue.

mod handle;
mod report;
pub(crate) mod slots;
mod step;
mod warm_up;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Instant;

use kr_contract::FinishReason;

use handle::{Command, Loaded, SessionId};
pub use handle::{EngineHandle, EngineSession, EngineThread, FrameSink, SinkFull};
use report::Notices;
use warm_up::Extent;
pub use warm_up::WarmUp;

use crate::estimate::StepEstimate;
use crate::model::Model;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::{Error, Reject, SequenceRequest};

/// Commands read between two steps, so that a flood of them cannot keep a step from running.
const COMMANDS_PER_TURN: usize = 1024;

/// How an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// What goes into a step.
    pub scheduler: SchedulerConfig,
    /// Commands that may lie unread while a step runs.
    pub command_capacity: usize,
    /// Whether a few steps are run before the engine is ready, so that its first announcement was measured. Their numbers
    /// come before those of the first request.
    pub warm_up: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig::default(),
            command_capacity: 4096,
            warm_up: false,
        }
    }
}

/// The loop's state.
pub struct Engine<M: Model> {
    model: M,
    scheduler: Scheduler,
    estimate: StepEstimate,
    /// Oldest first.
    submitted: VecDeque<Submitted<M::Ticket>>,
    /// Steps that may be open while another one is submitted.
    depth: usize,
    last_read: Option<Instant>,
    /// The frame before has said how long the next step takes.
    is_announced: bool,
    session: Option<Session>,
    notices: Notices,
    drain: Option<Drain>,
}

struct Submitted<T> {
    step: u64,
    ticket: T,
    at: Instant,
}

struct Session {
    id: SessionId,
    sink: Box<dyn FrameSink>,
}

/// No sequence is admitted any more.
struct Drain {
    /// When those that are left are ended; `None` is never.
    until: Option<Instant>,
}

impl<M: Model> fmt::Debug for Engine<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
    }
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
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (commands, inbox) = sync_channel(config.command_capacity.max(1));
        let (loaded, on_loaded) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || Self::load_and_run(config, load, &inbox, &loaded))
            .map_err(Error::Thread)?;
        Ok(EngineThread::new(EngineHandle::new(commands), on_loaded, thread))
    }

    fn load_and_run<L, E>(
        config: EngineConfig,
        load: L,
        inbox: &Receiver<Command>,
        loaded: &SyncSender<Loaded>,
    ) -> Result<(), Error>
    where
        L: FnOnce() -> Result<M, E>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let model = load().map_err(|error| Error::Load(error.into()))?;
        let mut engine = Self::new(config, model);
        let warm_up = if config.warm_up {
            engine.warm_up(config.scheduler)?
        } else {
            None
        };
        // Nobody need be waiting for this: commands are read either way.
        let _ = loaded.try_send(Loaded {
            limits: engine.model.limits().clone(),
            warm_up,
        });
        let result = engine.run(inbox);
        match &result {
            Ok(()) => tracing::info!("engine stopped"),
            Err(error) => tracing::error!(error = error as &dyn StdError, "engine failed"),
        }
        result
    }

    fn new(config: EngineConfig, model: M) -> Self {
        let limits = model.limits().clone();
        Self {
            depth: usize::try_from(limits.pipeline_depth).unwrap_or(0),
            model,
            scheduler: Scheduler::new(config.scheduler, limits),
            estimate: StepEstimate::default(),
            submitted: VecDeque::new(),
            last_read: None,
            is_announced: false,
            session: None,
            notices: Notices::default(),
            drain: None,
        }
    }

    fn warm_up(&mut self, config: SchedulerConfig) -> Result<Option<WarmUp>, Error> {
        let extent = Extent {
            max_step_tokens: config.max_step_tokens.max(1),
            max_sequences: config.max_sequences.max(1),
        };
        let warm_up = warm_up::run(&mut self.model, extent, &mut self.estimate)?;
        if let Some(WarmUp { steps, .. }) = warm_up {
            self.scheduler.number_after(steps);
        }
        tracing::info!(?warm_up, "warmed up");
        Ok(warm_up)
    }

    fn run(mut self, inbox: &Receiver<Command>) -> Result<(), Error> {
        while self.read_commands(inbox)?.is_continue() {
            while self.submitted.len() <= self.depth && self.submit_next()? {}
            self.announce_long_step();
            match self.submitted.pop_front() {
                Some(step) => self.complete(step)?,
                None => self.deliver_notices(),
            }
            self.free_slots()?;
        }
        self.settle()?;
        self.deliver_notices();
        Ok(())
    }

    /// Handles what lies in the queue; waits there while there is nothing else to do.
    fn read_commands(&mut self, inbox: &Receiver<Command>) -> Result<ControlFlow<()>, Error> {
        for _ in 0..COMMANDS_PER_TURN {
            if self.is_idle() && self.drain.is_some() {
                return Ok(ControlFlow::Break(()));
            }
            let command = if self.is_idle() && self.notices.is_empty() {
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                inbox.try_recv()
            };
            match command {
                Ok(command) => {
                    if self.handle(command)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(ControlFlow::Break(())),
            }
        }
        self.end_drained();
        Ok(ControlFlow::Continue(()))
    }

    fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.submitted.is_empty()
    }

    fn handle(&mut self, command: Command) -> Result<ControlFlow<()>, Error> {
        match command {
            Command::Attach { session, sink } => {
                self.end_session();
                // No frame of the new session may speak of the old one's sequences: their ids may be the same.
                self.settle()?;
                self.session = Some(Session { id: session, sink });
                self.scheduler.restate_blocks();
            }
            Command::Detach { session } if self.is_current(session) => {
                self.end_session();
                self.free_slots()?;
            }
            Command::Admit { session, request } if self.is_current(session) => self.admit(request),
            Command::Cancel { session, id } if self.is_current(session) => {
                self.notices.sequences.extend(self.scheduler.cancel(id, Instant::now()));
            }
            Command::Detach { .. } | Command::Admit { .. } | Command::Cancel { .. } => {}
            Command::Drain { deadline } => {
                self.drain = Some(Drain {
                    until: Instant::now().checked_add(deadline),
                });
            }
            Command::Shutdown => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_current(&self, session: SessionId) -> bool {
        self.session.as_ref().is_some_and(|current| current.id == session)
    }

    fn admit(&mut self, request: SequenceRequest) {
        let id = request.id;
        let admitted = match self.drain {
            Some(_) => Err(Reject::Draining),
            None => self.scheduler.admit(request, Instant::now()),
        };
        match admitted {
            Ok(()) => self.notices.accepted.push(id),
            Err(reject) => self.notices.rejected.push((id, reject)),
        }
    }

    /// Drops the sink and ends everything it admitted.
    fn end_session(&mut self) {
        self.session = None;
        self.scheduler.end_all(FinishReason::Cancelled, None, Instant::now());
        self.notices = Notices::default();
    }

    fn end_drained(&mut self) {
        let now = Instant::now();
        let until = self.drain.as_ref().and_then(|drain| drain.until);
        if until.is_some_and(|until| now >= until) {
            let message = "the worker was drained before this sequence finished";
            let ended = self.scheduler.end_all(FinishReason::Error, Some(message), now);
            self.notices.sequences.extend(ended);
        }
    }
}
