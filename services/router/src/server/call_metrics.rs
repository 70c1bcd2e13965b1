//! The layer that measures calls: `rpc.server.call.duration`, from arrival to trailers.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{self, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use kr_boot::semantic;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::Code;

use super::body::{Tail, with_tail};
use crate::call::Call;
use crate::metrics::Metrics;
use crate::metrics::requests::CallEnded;

/// Full names of the methods that exist: a client's invention must not become a label.
#[derive(Debug, Clone)]
pub(crate) struct Methods(Arc<HashSet<String>>);

impl Methods {
    /// Reads the methods out of descriptors.
    ///
    /// # Errors
    /// When a set cannot be decoded.
    pub(crate) fn of(descriptor_sets: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut names = HashSet::new();
        for encoded in descriptor_sets {
            for file in FileDescriptorSet::decode(*encoded)?.file {
                for service in &file.service {
                    let of_service = |method: &prost_types::MethodDescriptorProto| {
                        format!("{}.{}/{}", file.package(), service.name(), method.name())
                    };
                    names.extend(service.method.iter().map(of_service));
                }
            }
        }
        Ok(Self(Arc::new(names)))
    }

    pub(super) fn label(&self, path: &str) -> &str {
        let name = path.strip_prefix('/').and_then(|name| self.0.get(name));
        name.map_or(semantic::OTHER, String::as_str)
    }
}

/// What the layer needs.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) metrics: Arc<Metrics>,
    pub(super) methods: Methods,
}

pub(super) async fn measure(extract::State(state): extract::State<State>, request: Request, next: Next) -> Response {
    let mut measured = Measured {
        method: state.methods.label(request.uri().path()).to_owned(),
        begun: Instant::now(),
        call: request.extensions().get::<Call>().cloned(),
        code: None,
        metrics: state.metrics,
    };
    let response = next.run(request).await;
    measured.trailers(response.headers());
    with_tail(response, measured)
}

/// A call being measured; counted when dropped, whatever ends it.
struct Measured {
    method: String,
    begun: Instant,
    call: Option<Call>,
    code: Option<Code>,
    metrics: Arc<Metrics>,
}

impl Tail for Measured {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = tonic::Status::from_header_map(trailers) {
            self.code = Some(status.code());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let late = self.call.as_ref().is_some_and(Call::is_late);
        let code = match self.code {
            Some(code) => code,
            None if late => Code::DeadlineExceeded,
            None => Code::Cancelled,
        };
        self.metrics.requests.call_ended(&CallEnded {
            method: &self.method,
            code: name(code),
            duration: self.begun.elapsed(),
        });
    }
}

/// Returns the name of a code as the specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
