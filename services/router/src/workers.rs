//! The workers of a model: starting local ones, reaching remote ones, and the session with each. Towards the dispatcher a
//! worker is a stream of [`Notice`]s and, while it is ready, a channel for [`Command`]s; nobody else sees processes,
//! sockets or protos.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kr_contract::{BlockHash, SequenceId, TokenId};
use tokio::sync::mpsc;

use crate::policy::WorkerIndex;
use crate::sequence::{CancelReason, Finished, SequenceRequest, TokenLogprobs, Tokens};

pub(crate) mod address;
pub(crate) mod backoff;
mod connect;
mod error;
pub(crate) mod identity;
pub(crate) mod profile;
mod session;
pub(crate) mod sockets;
mod spawn;
pub(crate) mod supervisor;
pub(crate) mod watchdog;

#[cfg(test)]
pub(crate) mod fake;

pub(crate) use address::Address;
pub(crate) use error::Error;
pub(crate) use identity::ExpectedIdentity;
pub(crate) use profile::{Speed, WorkerProfile};
pub(crate) use sockets::SocketDir;
pub(crate) use watchdog::WatchdogLimits;

/// One configured worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSetup {
    /// Unique within the process; a metric label.
    pub(crate) name: Arc<str>,
    pub(crate) origin: WorkerOrigin,
    /// How long it may take from its start, or from the first try to reach it, until it is ready.
    pub(crate) ready_timeout: Duration,
}

/// Where a worker comes from.
#[derive(Debug, Clone)]
pub(crate) enum WorkerOrigin {
    /// The router starts it and it ends with the router.
    Local(LocalWorker),
    /// Somebody else runs it.
    Remote(Address),
}

/// How to start a worker.
#[derive(Debug, Clone)]
pub(crate) struct LocalWorker {
    /// The executable; see [`LocalWorker::find_program`].
    pub(crate) program: PathBuf,
    /// The model's directory.
    pub(crate) model: PathBuf,
    /// Further arguments, passed through.
    pub(crate) options: Vec<String>,
    /// Variables set for it beside the router's own.
    pub(crate) environment: Vec<(String, String)>,
    /// Where its socket goes.
    pub(crate) sockets: Arc<SocketDir>,
    /// How long it may take to leave after Drain, and again after SIGTERM.
    pub(crate) stop_grace: Duration,
}

/// Something about one worker, for its model's dispatcher. In order: nothing of a former life comes after
/// [`WorkerEvent::Lost`].
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) worker: WorkerIndex,
    pub(crate) event: WorkerEvent,
}

/// What can happen to a worker.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// It is being started or reached.
    Starting,
    /// It takes sequences.
    Ready(Ready),
    /// One step, or news without a step.
    Frame(Frame),
    /// It did not take a sequence.
    Rejected(Rejected),
    /// Its session is over; everything it had is lost.
    Lost,
    /// It is tried again later; the message says why it went, with the cure where there is one.
    Backoff { message: Arc<str>, cause: LossCause },
    /// It was asked to stop, and has.
    Stopped,
}

/// A worker that takes sequences.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) profile: Arc<WorkerProfile>,
    /// Bounded. A full one means that the worker does not read.
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run this.
    Admit(Box<Admission>),
    /// Stop this.
    Cancel(SequenceId, CancelReason),
}

/// One try of one sequence.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) id: SequenceId,
    /// 1 for the first.
    pub(crate) attempt: u32,
    pub(crate) request: Arc<SequenceRequest>,
    /// What earlier attempts generated and the client has.
    pub(crate) emitted: Vec<TokenId>,
    pub(crate) time_left: Option<Duration>,
}

/// What one engine step did.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    /// Sequences taken since the frame before.
    pub(crate) accepted: Vec<SequenceId>,
    pub(crate) updates: Vec<Update>,
    /// Unset where no step ran.
    pub(crate) step: Option<Step>,
    /// How long the next step is expected to take. Unset: nothing is left to run.
    pub(crate) next_expected: Option<Duration>,
    pub(crate) load: Load,
    pub(crate) wasted_tokens: u32,
    /// Blocks of the prefix cache that other requests may hit from now on.
    pub(crate) blocks_added: Vec<BlockHash>,
    /// Blocks that left it.
    pub(crate) blocks_evicted: Vec<BlockHash>,
}

impl Frame {
    /// Returns the sequences that ended.
    pub(crate) fn ended(&self) -> impl Iterator<Item = SequenceId> + '_ {
        let ended = self.updates.iter().filter(|update| update.end.is_some());
        ended.map(|update| update.id)
    }
}

/// Figures of a step that ran.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) sequences: u32,
    /// Input tokens.
    pub(crate) tokens: u32,
    pub(crate) duration: Duration,
}

/// News of one sequence.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) id: SequenceId,
    /// Of the prompt's tokens that this step scored.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    pub(crate) tokens: Tokens,
    pub(crate) end: Option<End>,
}

/// How a sequence ended in the worker.
#[derive(Debug)]
pub(crate) enum End {
    /// By itself.
    Finished(Box<Finished>),
    /// It was cancelled, by the router or because the worker drains.
    Cancelled(Box<Finished>),
    /// The model failed on it.
    Failed { message: String },
}

/// What a worker holds, by its own account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) running: u32,
    pub(crate) waiting: u32,
    pub(crate) kv_used_bytes: u64,
    pub(crate) pending_prefill_tokens: u64,
    /// Blocks of the prefix cache in use.
    pub(crate) cached_blocks: u32,
}

/// A sequence that was not taken.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) id: SequenceId,
    pub(crate) reason: RejectReason,
    pub(crate) message: String,
}

/// Why it was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// The worker is full; it or another one may take it later.
    Busy,
    /// The worker drains; another one may take it.
    Draining,
    /// No worker of this model would take it.
    Final,
}

/// Why a worker's life or session ended without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LossCause {
    /// It exited, with whatever code, after it had been ready.
    Exit,
    /// A signal ended it after it had been ready.
    Signal,
    /// It was never ready.
    FailedStart,
    /// It was never ready because the model's files cannot be served.
    ModelNotLoaded,
    /// It delivered nothing for too long and was killed or given up.
    Wedged,
    /// The connection broke while the process, as far as is known, lived.
    Disconnected,
    /// It broke the protocol.
    Protocol,
}

impl LossCause {
    /// All causes, for what counts them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Exit,
        Self::Signal,
        Self::FailedStart,
        Self::ModelNotLoaded,
        Self::Wedged,
        Self::Disconnected,
        Self::Protocol,
    ];
}
