//! Why a request is refused or ends badly, before it becomes a gRPC status (`status`).

use std::time::Duration;

use kr_boot::exit::with_causes;

use crate::sequence::Failed;

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path of the field in the request: `parameters.top_p`, `messages[2].role`.
    pub(crate) field: String,
    /// What is wrong and what is allowed; never the request's text.
    pub(crate) description: String,
}

impl Violation {
    pub(crate) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// Whatever can go wrong between a client's request and the end of its stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Fields outside what is allowed, all of them.
    #[error("{}", listed(.0))]
    Invalid(Vec<Violation>),
    /// Prompt and answer together do not fit the model, or the prompt does not fit what the operator allows.
    #[error(
        "{field}: {prompt_tokens} prompt tokens and {max_tokens} to generate do not fit {limit} tokens; shorten them"
    )]
    ContextLength {
        /// The field to change.
        field: &'static str,
        prompt_tokens: usize,
        max_tokens: u32,
        limit: u32,
    },
    /// Fields this server knows but cannot honour yet.
    #[error("not implemented yet: {}; leave them out", .fields.join(", "))]
    NotImplemented { fields: Vec<&'static str> },
    /// No such model.
    #[error("model `{name}` is not served here; ListModels names those that are")]
    UnknownModel { name: String },
    /// Chat asked of a model that has no chat template.
    #[error("model `{model}` has no chat template; use Generate")]
    NoChatTemplate { model: String },
    /// The model's chat template is broken.
    #[error("the chat template of model `{model}` failed; its tokenizer_config.json needs repair")]
    ChatTemplate {
        model: String,
        #[source]
        source: kr_tokenizer::Error,
    },
    /// The tenant has as many requests in flight as it may.
    #[error("{limit} requests of `{tenant}` are in flight, which is its limit; wait for one to end")]
    TenantLimit { tenant: String, limit: usize },
    /// The process has as many in flight as it may, requests or texts to tokenize.
    #[error("the server handles {limit} {what} at once, which is its limit; try again")]
    ServerBusy { limit: usize, what: &'static str },
    /// No API key, or one that is not known.
    #[error("{}", if *.given { "the API key is not known" } else { "an API key is needed: `authorization: Bearer KEY`" })]
    Unauthenticated { given: bool },
    /// A message over the size limit.
    #[error("the request is over the limit of {limit_bytes} bytes; send less")]
    MessageTooLarge { limit_bytes: usize },
    /// A message that is not what its protobuf type says.
    #[error("the request cannot be decoded: {detail}")]
    Undecodable { detail: String },
    /// No such method.
    #[error("unknown method; reflection names those that exist")]
    UnknownMethod,
    /// The answer was cut because the service shuts down.
    #[error("the service is shutting down; the answer was cut after {emitted} tokens")]
    CutByDrain { emitted: u32 },
    /// The sequence did not run to its end.
    #[error(transparent)]
    Sequence(#[from] Failed),
    /// A mistake of ours.
    #[error("internal error in {place}")]
    Internal {
        /// Where, for the log.
        place: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// One field at fault.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }

    /// The same failure for a client that has `emitted` tokens already: trying again would repeat them.
    pub(crate) fn after_tokens(self, emitted: u32) -> Self {
        match self {
            Self::Sequence(Failed::Draining) if emitted > 0 => Self::CutByDrain { emitted },
            other => other,
        }
    }

    /// A mistake of ours: `place` and `source` reach the log only.
    pub(crate) fn internal(place: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal {
            place,
            source: source.into(),
        }
    }

    /// What the log must say and the client must not read.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::Internal { source, .. } => Some(format!("{self}: {}", with_causes(&**source))),
            Self::ChatTemplate { source, .. } => Some(with_causes(source)),
            Self::Sequence(Failed::ModelFailed { message }) => Some(message.clone()),
            _ => None,
        }
    }

    /// When trying again makes sense.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Sequence(
                Failed::QueueFull { retry_after, .. }
                | Failed::TenantQueueFull { retry_after, .. }
                | Failed::CannotStart { retry_after, .. },
            ) => Some(*retry_after),
            Self::TenantLimit { .. } | Self::ServerBusy { .. } => Some(Duration::from_secs(1)),
            Self::Sequence(Failed::NoWorker { .. } | Failed::Draining | Failed::WorkerLost { emitted: 0 }) => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }
}

fn listed(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect::<Vec<_>>()
        .join("; ")
}
