//! The layer that bounds how many calls the process handles at once.

use std::sync::Arc;

use axum::extract::{self, Request};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::body::with_tail;
use super::refuse;
use crate::call::Call;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::status;

/// Probes must get through when nothing else does.
const ALWAYS: &str = "/grpc.health.v1.Health/";

/// Room for calls.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    limit: usize,
    room: Arc<Semaphore>,
}

impl InFlight {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            limit,
            room: Arc::new(Semaphore::new(limit)),
        }
    }
}

/// What the layer needs.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) in_flight: InFlight,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) async fn limit_in_flight(
    extract::State(state): extract::State<State>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path().starts_with(ALWAYS) {
        return next.run(request).await;
    }
    match state.in_flight.room.clone().try_acquire_owned() {
        Ok(permit) => with_tail(next.run(request).await, permit),
        Err(_) => {
            let error = Error::ServerBusy {
                limit: state.in_flight.limit,
                what: "requests",
            };
            state.metrics.requests.refused(status::classify(&error).1);
            refuse(&error, request.extensions().get::<Call>())
        }
    }
}
