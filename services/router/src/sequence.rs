//! The seam between the edge (validate, relay) and the scheduling side (queue, dispatch, workers): a validated request to
//! run, and the events it gives back. Token ids only; no text, no proto types, no gRPC.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{Exactness, FinishReason, RequestId, SamplingParams, TokenId};

pub(crate) mod stream;

pub(crate) use stream::{Cancellations, SequenceSender, SequenceStream, StreamLimits};

/// Index of a model in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ModelIndex(pub(crate) usize);

/// One submitted sequence within its model's dispatcher, through all its attempts. Never leaves the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceKey(pub(crate) u64);

/// Whose request it is: the API key's id, or `default` without authentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tenant(pub(crate) Arc<str>);

/// Who goes first; higher first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Work that can wait.
    Low,
    /// The default.
    Normal,
    /// Somebody is watching.
    High,
}

/// One sequence to run, complete and checked: nothing later checks again.
#[derive(Debug, Clone)]
pub(crate) struct SequenceRequest {
    pub(crate) request_id: RequestId,
    pub(crate) model: ModelIndex,
    pub(crate) tenant: Tenant,
    pub(crate) priority: Priority,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) params: SamplingParams,
    pub(crate) end_tokens: Arc<[TokenId]>,
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) max_tokens: u32,
    /// Salt of the block hashes, the tenant mixed in.
    pub(crate) cache_salt: Vec<u8>,
    pub(crate) bypass_prefix_cache: bool,
    /// The client's own cache salt, where an identical request may share this sequence.
    pub(crate) shared_under: Option<Arc<str>>,
    /// Log probabilities of the prompt's tokens, with this many most likely ones beside each.
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) arrived: Instant,
    /// From `grpc-timeout`.
    pub(crate) deadline: Option<Instant>,
    /// W3C trace context of the request's span, for the worker's spans.
    pub(crate) traceparent: Option<String>,
}

/// What happens to a sequence, in order: `Accepted` first, `PromptLogprobs` where they were asked for and then `Tokens`, each any
/// number of times, then exactly one of `Finished` and `Failed`; or `Failed` alone. When a worker is lost before the first token,
/// `Accepted` comes again from the next one and replaces the one before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SequenceEvent {
    /// A worker runs it. Response headers go out now.
    Accepted(Accepted),
    /// More of the prompt's log probabilities: one for each of its tokens but the first, without gap or repeat.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// More tokens. `start_index` counts generated tokens from 0 without gap or repeat.
    Tokens(Tokens),
    /// It ended by itself.
    Finished(Finished),
    /// It ended otherwise; nothing more comes.
    Failed(Failed),
}

/// Which worker took a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) worker: Arc<str>,
    pub(crate) exactness: Exactness,
    pub(crate) numerics_fingerprint: Arc<str>,
    pub(crate) model_digest: Arc<str>,
    /// 1 unless earlier workers were lost.
    pub(crate) attempts: u32,
    /// From arrival until it was sent to the worker that took it.
    pub(crate) queue_time: Duration,
    /// Whether it was another client's already when this one joined.
    pub(crate) coalesced: bool,
}

/// Generated tokens of one step.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Tokens {
    pub(crate) start_index: u32,
    pub(crate) ids: Vec<TokenId>,
    /// Empty, or one for each id.
    pub(crate) logprobs: Vec<TokenLogprobs>,
}

/// Natural log probabilities of one token.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct TokenLogprobs {
    pub(crate) chosen: f32,
    pub(crate) top: Vec<(TokenId, f32)>,
}

/// How a sequence ended in the worker, and what it took there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finished {
    /// `Stop` means that the last id sent was an end token or stop id, which is not part of the text.
    pub(crate) reason: FinishReason,
    pub(crate) waiting: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
    pub(crate) mean_batch_size: f32,
    pub(crate) max_batch_size: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) copied_bytes: u64,
    pub(crate) copy_time: Duration,
    pub(crate) preemptions: u32,
}

/// Why a sequence did not run to its end.
#[expect(clippy::enum_variant_names, reason = "the model failed, not the name")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// The queue holds as many as it may.
    #[error("the queue of this model is full ({capacity} requests); try again later")]
    QueueFull { capacity: usize, retry_after: Duration },
    /// The queue holds as many of this tenant as it may.
    #[error("{capacity} requests of this tenant wait already, which is its limit; try again later")]
    TenantQueueFull { capacity: usize, retry_after: Duration },
    /// The client's deadline passed.
    #[error("the deadline passed; give more time or ask for less")]
    DeadlineExceeded,
    /// The deadline would pass before a worker could begin.
    #[error(
        "a worker can begin in {wait:.1?} at the earliest, and the deadline is in {time_left:.1?}; give more time or try \
         again later"
    )]
    CannotStart {
        wait: Duration,
        time_left: Duration,
        retry_after: Duration,
    },
    /// It waited as long as the configuration allows and no worker was ready.
    #[error("no worker became ready within {waited:.1?}; ListModels says why")]
    NoWorker { waited: Duration },
    /// No worker can load the model.
    #[error("the model cannot be loaded: {message}")]
    ModelNotLoaded { message: String },
    /// The service shuts down.
    #[error("the service is shutting down; try again, best on another connection")]
    Draining,
    /// The worker went away; `emitted` tokens had been sent.
    #[error("the worker was lost after {emitted} tokens; ask again if a repeated beginning is acceptable")]
    WorkerLost { emitted: u32 },
    /// The worker refused it, for a reason that would hold on every worker.
    #[error("the worker refused the request: {message}")]
    Refused { message: String },
    /// The client reads too slowly.
    #[error("the client reads too slowly; read faster or ask for fewer tokens")]
    SlowConsumer,
    /// The model failed on this sequence.
    #[error("the model failed: {message}")]
    ModelFailed { message: String },
}

/// Why a sequence is stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CancelReason {
    /// Nobody reads it any more.
    ClientGone,
    /// The client's deadline passed.
    Deadline,
    /// The edge found a stop text.
    StopText,
    /// The client reads too slowly.
    SlowConsumer,
    /// The router shuts down.
    Shutdown,
}
