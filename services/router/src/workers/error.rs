//! What can go wrong before a worker is ready.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a worker is not ready. Messages reach the operator through ListModels, so each names what, where and the cure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no kr-worker beside {beside}: build it (`make build`) or set the path of the worker executable in the configuration"
    )]
    NoProgram { beside: PathBuf },
    #[error("the worker executable {program} does not exist: correct its path in the configuration")]
    ProgramMissing { program: PathBuf },
    #[error("cannot tell where this executable lies, to find kr-worker beside it")]
    OwnExecutable(#[source] io::Error),
    #[error("cannot create the socket directory {path}: make it writable or choose another runtime directory")]
    SocketDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the socket path {path} is longer than {limit} bytes: choose a shorter runtime directory")]
    SocketPathTooLong { path: PathBuf, limit: usize },
    #[error("cannot start {program}: {source}")]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it {status} before it was ready{}", said(last_line))]
    EndedEarly {
        status: String,
        /// Of an exit.
        code: Option<i32>,
        last_line: String,
    },
    #[error(
        "not ready within {timeout:?}{}; raise the worker's ready_timeout if it is only slow",
        said(last_line)
    )]
    NotReady { timeout: Duration, last_line: String },
    #[error("cannot reach {address}")]
    Connect {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("the session could not be opened ({code}): {message}")]
    Open { code: tonic::Code, message: String },
    #[error("the worker closed the session without an answer to hello")]
    NoHello,
    #[error("the worker refused the session: {message}")]
    Refused { message: String },
    #[error("the worker speaks protocol {theirs_major}.{theirs_minor}, this router {}.{}: run the same release of both", kr_proto::WORKER_PROTOCOL.0, kr_proto::WORKER_PROTOCOL.1)]
    Protocol { theirs_major: u32, theirs_minor: u32 },
    #[error("the worker needs features this router lacks ({0}): run the same release of both")]
    Features(String),
    #[error("the worker's hello is incomplete: {0} is missing")]
    Incomplete(&'static str),
    #[error(transparent)]
    Identity(#[from] super::identity::Mismatch),
}

/// A worker's exit code where the model's files cannot be served.
const MODEL_NOT_LOADED: i32 = 65;

impl Error {
    /// Returns whether the model's files cannot be served, so that another start would fail the same way.
    pub(super) fn is_models_fault(&self) -> bool {
        match self {
            Self::EndedEarly { code, .. } => *code == Some(MODEL_NOT_LOADED),
            Self::Open { code, .. } => *code == tonic::Code::FailedPrecondition,
            _ => false,
        }
    }
}

fn said(last_line: &str) -> String {
    if last_line.is_empty() {
        String::new()
    } else {
        format!("; its last words: {last_line}")
    }
}
