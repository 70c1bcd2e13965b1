//! `grpc.health.v1`: whether the process serves at all (""), each service, and each model (`kr.model/NAME`). Liveness does
//! not depend on workers; readiness does. While draining nothing serves.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream};
use kr_proto::serve::inference_service_server::SERVICE_NAME as INFERENCE;
use kr_proto::serve::model_service_server::SERVICE_NAME as MODELS;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::catalog::Catalog;
use crate::dispatch::{ModelState, Snapshot};

/// Prefix of a model's service name.
const MODEL: &str = "kr.model/";

/// What health is computed from.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) models: watch::Receiver<Snapshot>,
    pub(crate) draining: CancellationToken,
    /// The server is about to close: watchers must not hold it up.
    pub(crate) closing: CancellationToken,
}

impl Readiness {
    /// Returns whether at least one model can answer and no drain has begun.
    pub(crate) fn is_ready(&self) -> bool {
        !self.draining.is_cancelled()
            && self
                .models
                .borrow()
                .iter()
                .any(|model| model.state == ModelState::Ready)
    }

    /// Returns the status of a service name; `None` for an unknown one.
    fn of(&self, service: &str) -> Option<ServingStatus> {
        let serving = match service {
            "" | MODELS => true,
            INFERENCE => self.is_ready(),
            name => {
                let model = self.catalog.resolve(name.strip_prefix(MODEL)?).ok()?;
                let models = self.models.borrow();
                models.get(model.index.0)?.state == ModelState::Ready
            }
        };
        Some(if serving && !self.draining.is_cancelled() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        })
    }

    /// Waits until a status may have changed; false when no more changes will come.
    async fn changed(&mut self) -> bool {
        let draining = self.draining.is_cancelled();
        tokio::select! {
            () = self.closing.cancelled() => false,
            () = self.draining.cancelled(), if !draining => true,
            change = self.models.changed() => change.is_ok(),
        }
    }
}

#[tonic::async_trait]
impl Health for Readiness {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.of(&request.get_ref().service) {
            Some(status) => Ok(Response::new(response(status))),
            None => Err(Status::not_found("unknown service name")),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends the present status at once and each change after it. An unknown name stays open as `SERVICE_UNKNOWN`, as the
    /// protocol wants.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher {
            readiness: self.clone(),
            service: request.into_inner().service,
            sent: None,
        };
        let changes = stream::unfold(watcher, |mut watcher| async move {
            let status = watcher.next().await?;
            Some((Ok(response(status)), watcher))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

struct Watcher {
    readiness: Readiness,
    service: String,
    sent: Option<ServingStatus>,
}

impl Watcher {
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            self.readiness.models.mark_unchanged();
            let status = self
                .readiness
                .of(&self.service)
                .unwrap_or(ServingStatus::ServiceUnknown);
            if self.sent != Some(status) {
                self.sent = Some(status);
                return Some(status);
            }
            if !self.readiness.changed().await {
                return None;
            }
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
pub(crate) mod tests;
