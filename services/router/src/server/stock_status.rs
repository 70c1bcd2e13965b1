//! The layer that rewrites what tonic answers by itself. A message over the limit is OUT_OF_RANGE to tonic and one that
//! cannot be decoded INTERNAL; clients of other servers know them as RESOURCE_EXHAUSTED and INVALID_ARGUMENT, and INTERNAL
//! must mean a mistake of ours. Our own statuses always have details, by which the two are told apart.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

use super::refuse;
use crate::call::Call;
use crate::error::Error;

pub(super) async fn translate(State(limit_bytes): State<usize>, request: Request, next: Next) -> Response {
    let call = request.extensions().get::<Call>().cloned();
    let response = next.run(request).await;
    match stock_error(&response, limit_bytes) {
        Some(error) => refuse(&error, call.as_ref()),
        None => response,
    }
}

/// Returns the error that tonic's own status stands for, if it is one.
fn stock_error(response: &Response, limit_bytes: usize) -> Option<Error> {
    let status = Status::from_header_map(response.headers())?;
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        // The second is a compressed message that grows too large.
        Code::OutOfRange | Code::ResourceExhausted => Some(Error::MessageTooLarge { limit_bytes }),
        Code::Internal => Some(Error::Undecodable {
            detail: status.message().to_owned(),
        }),
        Code::Unimplemented if status.message().is_empty() => Some(Error::UnknownMethod),
        _ => None,
    }
}
