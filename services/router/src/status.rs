//! From what went wrong to what the client reads: the one place that makes a gRPC status, with google.rpc details.
//! Every reason is listed in `docs/errors.md`; a test holds both together.
#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use kr_contract::RequestId;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::Error;
use crate::sequence::Failed;

/// Domain of every `ErrorInfo` of this server.
pub(crate) const DOMAIN: &str = "kr-serve-mlx";

/// Tells a client's retry policy how long to wait, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Stable names of what can go wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    InvalidRequest,
    ContextLengthExceeded,
    FieldNotImplemented,
    ModelNotFound,
    NoChatTemplate,
    ChatTemplateFailed,
    TenantLimit,
    ServerBusy,
    ApiKeyMissing,
    ApiKeyUnknown,
    MessageTooLarge,
    UndecodableRequest,
    UnknownMethod,
    QueueFull,
    ShedDeadline,
    DeadlineExceeded,
    NoWorkerReady,
    ModelLoadFailed,
    Draining,
    WorkerLost,
    RequestRefused,
    SlowConsumer,
    ModelFailed,
    Internal,
}

impl Reason {
    /// Those that can end a request before it is queued.
    pub(crate) const BEFORE_THE_QUEUE: [Self; 9] = [
        Self::InvalidRequest,
        Self::ContextLengthExceeded,
        Self::FieldNotImplemented,
        Self::ModelNotFound,
        Self::NoChatTemplate,
        Self::ChatTemplateFailed,
        Self::TenantLimit,
        Self::ServerBusy,
        Self::Internal,
    ];

    /// Returns the name on the wire and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::ContextLengthExceeded => "CONTEXT_LENGTH_EXCEEDED",
            Self::FieldNotImplemented => "FIELD_NOT_IMPLEMENTED",
            Self::ModelNotFound => "MODEL_NOT_FOUND",
            Self::NoChatTemplate => "NO_CHAT_TEMPLATE",
            Self::ChatTemplateFailed => "CHAT_TEMPLATE_FAILED",
            Self::TenantLimit => "TENANT_LIMIT",
            Self::ServerBusy => "SERVER_BUSY",
            Self::ApiKeyMissing => "API_KEY_MISSING",
            Self::ApiKeyUnknown => "API_KEY_UNKNOWN",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::UndecodableRequest => "UNDECODABLE_REQUEST",
            Self::UnknownMethod => "UNKNOWN_METHOD",
            Self::QueueFull => "QUEUE_FULL",
            Self::ShedDeadline => "SHED_DEADLINE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NoWorkerReady => "NO_WORKER_READY",
            Self::ModelLoadFailed => "MODEL_LOAD_FAILED",
            Self::Draining => "DRAINING",
            Self::WorkerLost => "WORKER_LOST",
            Self::RequestRefused => "REQUEST_REFUSED",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::ModelFailed => "MODEL_FAILED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// Returns code and reason of an error.
pub(crate) fn classify(error: &Error) -> (Code, Reason) {
    match error {
        Error::Invalid(_) => (Code::InvalidArgument, Reason::InvalidRequest),
        Error::ContextLength { .. } => (Code::InvalidArgument, Reason::ContextLengthExceeded),
        Error::NotImplemented { .. } => (Code::Unimplemented, Reason::FieldNotImplemented),
        Error::UnknownModel { .. } => (Code::NotFound, Reason::ModelNotFound),
        Error::NoChatTemplate { .. } => (Code::FailedPrecondition, Reason::NoChatTemplate),
        Error::ChatTemplate { .. } => (Code::FailedPrecondition, Reason::ChatTemplateFailed),
        Error::TenantLimit { .. } => (Code::ResourceExhausted, Reason::TenantLimit),
        Error::ServerBusy { .. } => (Code::ResourceExhausted, Reason::ServerBusy),
        Error::Unauthenticated { given: false } => (Code::Unauthenticated, Reason::ApiKeyMissing),
        Error::Unauthenticated { given: true } => (Code::Unauthenticated, Reason::ApiKeyUnknown),
        Error::MessageTooLarge { .. } => (Code::ResourceExhausted, Reason::MessageTooLarge),
        Error::Undecodable { .. } => (Code::InvalidArgument, Reason::UndecodableRequest),
        Error::UnknownMethod => (Code::Unimplemented, Reason::UnknownMethod),
        Error::CutByDrain { .. } => (Code::Unavailable, Reason::Draining),
        Error::Sequence(failed) => classify_failed(failed),
        Error::Internal { .. } => (Code::Internal, Reason::Internal),
    }
}

fn classify_failed(failed: &Failed) -> (Code, Reason) {
    match failed {
        Failed::QueueFull { .. } => (Code::ResourceExhausted, Reason::QueueFull),
        Failed::TenantQueueFull { .. } => (Code::ResourceExhausted, Reason::TenantLimit),
        Failed::CannotStart { .. } => (Code::ResourceExhausted, Reason::ShedDeadline),
        Failed::DeadlineExceeded => (Code::DeadlineExceeded, Reason::DeadlineExceeded),
        Failed::NoWorker { .. } => (Code::Unavailable, Reason::NoWorkerReady),
        Failed::ModelNotLoaded { .. } => (Code::FailedPrecondition, Reason::ModelLoadFailed),
        Failed::Draining => (Code::Unavailable, Reason::Draining),
        Failed::WorkerLost { .. } => (Code::Unavailable, Reason::WorkerLost),
        Failed::Refused { .. } => (Code::InvalidArgument, Reason::RequestRefused),
        Failed::SlowConsumer => (Code::ResourceExhausted, Reason::SlowConsumer),
        Failed::ModelFailed { .. } => (Code::Internal, Reason::ModelFailed),
    }
}

/// Turns an error into the status of one request. What only the log may know (`Code::Internal`) stays out of it; the
/// request id leads there.
pub(crate) fn status(error: &Error, request: RequestId) -> Status {
    let (code, reason) = classify(error);
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, facts(error));
    match error {
        Error::Invalid(violations) => {
            let fields = violations
                .iter()
                .map(|violation| FieldViolation::new(&violation.field, &violation.description));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        Error::ContextLength { field, .. } => {
            let text = error.to_string();
            let description = text.strip_prefix(&format!("{field}: ")).unwrap_or(&text);
            details.add_bad_request_violation(*field, description);
        }
        Error::NotImplemented { fields } => {
            for field in fields {
                details.add_bad_request_violation(*field, "not implemented yet");
            }
        }
        Error::UnknownModel { name } => {
            details.set_resource_info("model", name, "", "not served here");
        }
        Error::NoChatTemplate { model } | Error::ChatTemplate { model, .. } => {
            details.add_precondition_failure_violation("CHAT_TEMPLATE", model, error.to_string());
        }
        Error::TenantLimit { tenant, .. } => {
            details.add_quota_failure_violation(format!("tenant:{tenant}"), error.to_string());
        }
        Error::Sequence(Failed::ModelNotLoaded { message }) => {
            details.add_precondition_failure_violation("MODEL", "", message);
        }
        Error::Sequence(Failed::TenantQueueFull { .. }) => {
            details.add_quota_failure_violation("tenant", error.to_string());
        }
        Error::ServerBusy { .. }
        | Error::Unauthenticated { .. }
        | Error::MessageTooLarge { .. }
        | Error::Undecodable { .. }
        | Error::UnknownMethod
        | Error::CutByDrain { .. }
        | Error::Sequence(_)
        | Error::Internal { .. } => {}
    }
    let mut metadata = MetadataMap::new();
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        metadata.insert(RETRY_PUSHBACK, MetadataValue::from(milliseconds));
    }
    let message = if code == Code::Internal {
        details.set_request_info(request.to_string(), "");
        format!("internal error; the server's log has it under request {request}")
    } else {
        error.to_string()
    };
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// Figures that a program may want, as `ErrorInfo` metadata.
fn facts(error: &Error) -> HashMap<String, String> {
    let pairs: Vec<(&str, String)> = match error {
        Error::ContextLength {
            prompt_tokens,
            max_tokens,
            limit,
            ..
        } => vec![
            ("limit", limit.to_string()),
            ("actual", (prompt_tokens + *max_tokens as usize).to_string()),
            ("prompt_tokens", prompt_tokens.to_string()),
            ("max_tokens", max_tokens.to_string()),
        ],
        Error::NotImplemented { fields } => vec![("fields", fields.join(","))],
        Error::TenantLimit { limit, .. } | Error::ServerBusy { limit, .. } => vec![("limit", limit.to_string())],
        Error::MessageTooLarge { limit_bytes } => vec![("limit_bytes", limit_bytes.to_string())],
        Error::Sequence(Failed::QueueFull { capacity, .. }) => vec![("capacity", capacity.to_string())],
        Error::Sequence(Failed::TenantQueueFull { capacity, .. }) => vec![("limit", capacity.to_string())],
        Error::Sequence(Failed::CannotStart { wait, time_left, .. }) => vec![
            ("wait_ms", wait.as_millis().to_string()),
            ("time_left_ms", time_left.as_millis().to_string()),
        ],
        Error::CutByDrain { emitted } | Error::Sequence(Failed::WorkerLost { emitted }) => {
            vec![("tokens_emitted", emitted.to_string())]
        }
        Error::Invalid(_)
        | Error::UnknownModel { .. }
        | Error::NoChatTemplate { .. }
        | Error::ChatTemplate { .. }
        | Error::Unauthenticated { .. }
        | Error::Undecodable { .. }
        | Error::UnknownMethod
        | Error::Sequence(
            Failed::DeadlineExceeded
            | Failed::NoWorker { .. }
            | Failed::ModelNotLoaded { .. }
            | Failed::Draining
            | Failed::Refused { .. }
            | Failed::SlowConsumer
            | Failed::ModelFailed { .. },
        )
        | Error::Internal { .. } => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
