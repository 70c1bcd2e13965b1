//! The HTTP port: `/metrics`, `/healthz`, `/readyz`.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kr_boot::Telemetry;
use kr_boot::telemetry::PROMETHEUS_CONTENT_TYPE;
use serde::Serialize;

use crate::dispatch::{ModelSnapshot, ModelState};
use crate::health::Readiness;
use crate::server::Listener;

/// Makes the routes.
pub(crate) fn routes(readiness: Readiness, telemetry: Arc<Telemetry>) -> Router {
    let health = Router::new()
        .route("/readyz", get(ready))
        .with_state(readiness)
        .route("/healthz", get(async || "ok\n"));
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(telemetry)
        .merge(health)
}

/// Serves until `stop` is ready.
///
/// # Errors
/// Those of the listener.
pub(crate) async fn serve(
    listener: Listener,
    routes: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>) -> Response {
    // Rendering thousands of series takes longer than an async thread should be held.
    match tokio::task::spawn_blocking(move || telemetry.render_prometheus()).await {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    draining: bool,
    models: Vec<ModelReady>,
}

#[derive(Serialize)]
struct ModelReady {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    ready_workers: u32,
    configured_workers: u32,
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let report = Ready {
        ready: readiness.is_ready(),
        draining: readiness.draining.is_cancelled(),
        models: readiness
            .models
            .borrow()
            .iter()
            .map(|model| model_ready(model))
            .collect(),
    };
    let code = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    match serde_json::to_string(&report) {
        Ok(json) => (code, [(CONTENT_TYPE, "application/json")], json + "\n").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn model_ready(model: &ModelSnapshot) -> ModelReady {
    ModelReady {
        name: model.name.to_string(),
        state: match model.state {
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Failed => "failed",
            ModelState::Draining => "draining",
        },
        message: model.message.as_deref().map(str::to_owned),
        ready_workers: model.ready_workers,
        configured_workers: model.configured_workers,
    }
}

#[cfg(test)]
mod tests;
