//! What a session can fail with, and the gRPC status of each. The router acts on the code; the text is for people.
#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

/// Why a session broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The router opened the stream and said nothing.
    #[error("no Hello within {0:?}; send it as the first message")]
    HelloLate(Duration),
    /// The first message was something else.
    #[error("the first message must be Hello")]
    HelloMissing,
    /// Hello came again.
    #[error("Hello came twice; open a new session instead")]
    HelloAgain,
    /// A message without content, or with content of a newer protocol.
    #[error("a message without any known content; both sides must speak the same protocol version")]
    EmptyMessage,
    /// The model could not be loaded; the worker ends.
    #[error("{0}")]
    NotLoaded(Arc<str>),
    /// Another session took over.
    #[error("a newer session replaced this one")]
    Replaced,
    /// Frames were not read as fast as steps end.
    #[error("the router reads frames too slowly: {0} are waiting; the session's sequences are cancelled")]
    SlowReader(usize),
    /// The engine takes no commands at the moment.
    #[error("the engine's command queue is full; open the session again")]
    Busy,
    /// The engine has broken off; the worker ends.
    #[error("the engine has stopped: {0}")]
    EngineFailed(Arc<str>),
    /// The transport failed: the router is gone.
    #[error("the connection to the router is lost: {0}")]
    Disconnected(String),
}

impl Error {
    /// Returns the name of this end in metrics.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::HelloLate(_) | Self::HelloMissing | Self::HelloAgain | Self::EmptyMessage => "protocol",
            Self::NotLoaded(_) => "not_loaded",
            Self::Replaced => "replaced",
            Self::SlowReader(_) => "slow_reader",
            Self::Busy => "busy",
            Self::EngineFailed(_) => "engine_failed",
            Self::Disconnected(_) => "disconnected",
        }
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::HelloLate(_) => Code::DeadlineExceeded,
            Error::HelloMissing | Error::HelloAgain | Error::EmptyMessage => Code::InvalidArgument,
            Error::NotLoaded(_) => Code::FailedPrecondition,
            Error::Replaced => Code::Aborted,
            Error::SlowReader(_) => Code::ResourceExhausted,
            Error::Busy | Error::EngineFailed(_) => Code::Unavailable,
            Error::Disconnected(_) => Code::Cancelled,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_session_has_its_code() {
        let rows = [
            (Error::HelloLate(Duration::from_secs(1)), Code::DeadlineExceeded),
            (Error::HelloMissing, Code::InvalidArgument),
            (Error::HelloAgain, Code::InvalidArgument),
            (Error::EmptyMessage, Code::InvalidArgument),
            (
                Error::NotLoaded("config.json is missing".into()),
                Code::FailedPrecondition,
            ),
            (Error::Replaced, Code::Aborted),
            (Error::SlowReader(8), Code::ResourceExhausted),
            (Error::Busy, Code::Unavailable),
            (Error::EngineFailed("out of memory".into()), Code::Unavailable),
            (Error::Disconnected("reset".into()), Code::Cancelled),
        ];
        for (error, code) in rows {
            let status = Status::from(&error);
            assert_eq!(status.code(), code, "{error}");
            assert_eq!(status.message(), error.to_string());
        }
    }
}
