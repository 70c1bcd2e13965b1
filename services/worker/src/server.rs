//! The gRPC server: sessions, health and reflection on one address.

use std::time::Duration;

use kr_proto::worker::worker_service_server::WorkerServiceServer;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, Server, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::error::Error;
use crate::listen::Listener;
use crate::session::Sessions;

/// The service's name in health checks.
const SERVICE: &str = "kr.worker.v1.WorkerService";
/// Largest message from a router: a prompt of a million tokens.
const MAX_REQUEST_BYTES: usize = 8 << 20;
/// How much a router may send ahead on one stream, so that a burst of prompts takes no round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// How often a silent connection is probed, and how long it may take to answer: finds routers lost with their machine.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// The server, before it listens.
pub(crate) struct WorkerServer {
    router: Router,
    health: HealthReporter,
}

impl WorkerServer {
    /// Assembles the services. Health says "not serving" until told otherwise.
    ///
    /// # Errors
    /// When the compiled protos cannot be described.
    pub(crate) async fn new(sessions: Sessions) -> Result<Self, Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        set_serving(&health, false).await;
        let worker = WorkerServiceServer::new(sessions).max_decoding_message_size(MAX_REQUEST_BYTES);
        let router = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .add_service(worker)
            .add_service(health_service)
            .add_service(reflection().build_v1().map_err(Error::Reflection)?)
            .add_service(reflection().build_v1alpha().map_err(Error::Reflection)?);
        Ok(Self { router, health })
    }

    /// Returns what sets the health of the worker.
    pub(crate) fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// Serves until `stop` is cancelled and the open streams have ended.
    ///
    /// # Errors
    /// When the listener fails.
    pub(crate) async fn serve(self, listener: Listener, stop: CancellationToken) -> Result<(), Error> {
        let stopped = stop.cancelled_owned();
        match listener {
            Listener::Unix(listener) => {
                let incoming = UnixListenerStream::new(listener);
                self.router.serve_with_incoming_shutdown(incoming, stopped).await
            }
            Listener::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                self.router.serve_with_incoming_shutdown(incoming, stopped).await
            }
        }
        .map_err(Error::Serve)
    }
}

/// Tells health checks whether sessions are welcome.
pub(crate) async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    health.set_service_status("", status).await;
    health.set_service_status(SERVICE, status).await;
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kr_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE)
        .with_service_name("grpc.health.v1.Health")
}
