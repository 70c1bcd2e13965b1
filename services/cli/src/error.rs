//! What can go wrong in a command, and how a person reads it: what, where, the cure.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use kr_boot::exit::with_causes;
use tonic_types::StatusExt;

use crate::model::HubError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers at the address.
    #[error("no server answers at {server}; start one (`kr-router --model DIR`) or name another with --server")]
    Connect {
        server: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// `--server` is no address.
    #[error("{server} is not a server address; write it as http://HOST:PORT")]
    Address { server: String },
    /// The server refused or failed a call.
    #[error("{}", render_status(.0))]
    Call(Box<tonic::Status>),
    /// A stream ended without its last message.
    #[error("the server ended the stream without a finish reason; this is a fault of the server")]
    Unfinished,
    /// The command's own input cannot be used.
    #[error("{0}")]
    Input(String),
    /// The configuration has problems.
    #[error("{0}")]
    Configuration(String),
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A GGUF file cannot be converted.
    #[error(transparent)]
    Import(#[from] kr_gguf::Error),
    /// A model of the hub did not arrive.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The demo model cannot be fetched.
    #[error("{0}")]
    Pull(String),
    /// Standard output is gone.
    #[error("input or output")]
    Output(#[from] std::io::Error),
    /// Some requests of a benchmark failed.
    #[error("{failed} of {requests} requests failed; the first: {first}")]
    Bench {
        failed: usize,
        requests: usize,
        first: String,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Error {
    /// Prints the error to standard error and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        let _ = writeln!(std::io::stderr(), "kr: {}", with_causes(self));
        ExitCode::from(match self {
            Self::Configuration(_) => 64,
            Self::Connect { .. } | Self::Hub(HubError::Unreachable { .. }) => 69,
            Self::Call(status) if status.code() == tonic::Code::Unavailable => 69,
            Self::Interrupted => 130,
            _ => 1,
        })
    }
}

/// Renders a status with the details a person can act on.
fn render_status(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    let mut text = format!("{}: {}", code_name(status.code()), status.message());
    if let Some(bad_request) = details.bad_request() {
        for violation in &bad_request.field_violations {
            let line = format!("{}: {}", violation.field, violation.description);
            if !status.message().contains(&line) {
                text.push_str(&format!("\n  {line}"));
            }
        }
    }
    if let Some(info) = details.error_info() {
        text.push_str(&format!(" [{}]", info.reason));
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("; try again in {:.1} s", delay.as_secs_f64()));
    }
    text
}

/// Returns a status code as the gRPC specification writes it.
fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn fields_at_fault_reason_and_delay_are_shown() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("parameters.top_p", "is 2, allowed is above 0, up to 1")
            .set_error_info("INVALID_PARAMETER", "kr-serve-mlx", std::collections::HashMap::new())
            .set_retry_info(Some(std::time::Duration::from_millis(1500)));
        let status = tonic::Status::with_error_details(tonic::Code::InvalidArgument, "1 field is invalid", details);
        assert_eq!(
            Error::from(status).to_string(),
            "INVALID_ARGUMENT: 1 field is invalid\n  parameters.top_p: is 2, allowed is above 0, up to 1 \
             [INVALID_PARAMETER]; try again in 1.5 s"
        );
    }
}
