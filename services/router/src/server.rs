//! The gRPC port: its layers, in the order in which a call meets them, and its limits. Knows calls, not requests.

mod body;
mod call_metrics;
mod limits;
mod listener;
mod message_timeout;
mod stock_status;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use kr_contract::RequestId;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::ServiceBuilder;

use crate::auth::{self, ApiKeys};
use crate::call::Call;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::status;
pub(crate) use call_metrics::Methods;
pub(crate) use limits::InFlight;
pub(crate) use listener::{ConnectionLimits, Listener};

/// Response metadata that names the request.
const REQUEST_ID: &str = "x-request-id";

/// What the layers need.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) methods: Methods,
    pub(crate) api_keys: ApiKeys,
    pub(crate) in_flight: InFlight,
    pub(crate) max_message_bytes: usize,
}

/// Puts the layers around the services.
pub(crate) fn layered(services: Routes, stack: Stack) -> Routes {
    let in_flight = limits::State {
        in_flight: stack.in_flight,
        metrics: stack.metrics.clone(),
    };
    let calls = call_metrics::State {
        metrics: stack.metrics,
        methods: stack.methods,
    };
    let layers = ServiceBuilder::new()
        // Outermost, so that whatever answers, refusals of the other layers too, carries the request's id.
        .layer(from_fn(begin_call))
        // Outside of everything that can refuse, so that refusals are counted with the code the client reads.
        .layer(from_fn_with_state(calls, call_metrics::measure))
        // Before the limits: whoever has no key takes no room.
        .layer(from_fn_with_state(stack.api_keys, auth::authenticate))
        // Before a message is read, so that a call over the limit costs no memory.
        .layer(from_fn_with_state(in_flight, limits::limit_in_flight))
        // Within the limits: it bounds how long a call holds its place before a service has it.
        .layer(from_fn(message_timeout::limit_arrival))
        // Innermost: rewrites what tonic itself answers when it cannot hand the message to a service.
        .layer(from_fn_with_state(stack.max_message_bytes, stock_status::translate));
    Routes::from(services.prepare().into_axum_router().layer(layers))
}

/// The outermost layer: makes the [`Call`] that everything within reads.
async fn begin_call(mut request: Request, next: Next) -> Response {
    let call = match Call::begin(request.headers()) {
        Ok(call) => call,
        Err(error) => return refuse(&error, None),
    };
    let id = HeaderValue::try_from(call.request_id.to_string());
    request.extensions_mut().insert(call);
    let mut response = next.run(request).await;
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Answers a call that reaches no service.
pub(crate) fn refuse(error: &Error, call: Option<&Call>) -> Response {
    let request_id = call.map_or(RequestId(0), |call| call.request_id);
    log_refusal(error, request_id);
    status::status(error, request_id).into_http()
}

/// Writes the log line of a call or request that is refused.
pub(crate) fn log_refusal(error: &Error, request_id: RequestId) {
    let (code, reason) = status::classify(error);
    let reason = reason.as_str();
    match error.detail() {
        Some(detail) => tracing::error!(%request_id, reason, ?code, detail, "request failed"),
        None => tracing::info!(%request_id, reason, ?code, "request refused"),
    }
}

/// Bounds of the transport.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transport {
    pub(crate) max_concurrent_streams: u32,
    /// A connection that is silent this long is asked for a sign of life.
    pub(crate) keepalive_interval: Duration,
    /// And closed if it gives none within this.
    pub(crate) keepalive_timeout: Duration,
}

/// Headers of one call, metadata included; more is refused by the transport.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Resets that a connection may have pending before it is closed, against clients that open and reset without end.
const MAX_PENDING_RESETS: usize = 20;

/// Serves until `stop` is ready and the streams then running have ended.
///
/// # Errors
/// Those of the transport.
pub(crate) async fn serve(
    listener: Listener,
    services: Routes,
    transport: Transport,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .max_concurrent_streams(transport.max_concurrent_streams)
        .http2_keepalive_interval(Some(transport.keepalive_interval))
        .http2_keepalive_timeout(Some(transport.keepalive_timeout))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .add_routes(services)
        .serve_with_incoming_shutdown(listener.into_stream(), stop)
        .await
}

#[cfg(test)]
mod tests;
