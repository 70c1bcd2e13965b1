//! A collector inside the test: an OTLP/gRPC server on a free port that passes on what it receives.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Collector {
    pub(crate) endpoint: String,
    traces: Receiver<ExportTraceServiceRequest>,
    metrics: Receiver<ExportMetricsServiceRequest>,
    logs: Receiver<ExportLogsServiceRequest>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (to_traces, traces) = sync_channel(64);
        let (to_metrics, metrics) = sync_channel(64);
        let (to_logs, logs) = sync_channel(64);
        let incoming = {
            let _guard = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap()
        };
        let endpoint = format!("http://{}", incoming.local_addr().unwrap());
        let server = Server::builder()
            .add_service(TraceServiceServer::new(Sink(to_traces)))
            .add_service(MetricsServiceServer::new(Sink(to_metrics)))
            .add_service(LogsServiceServer::new(Sink(to_logs)))
            .serve_with_incoming(incoming);
        runtime.spawn(server);
        Self {
            endpoint,
            traces,
            metrics,
            logs,
            _runtime: runtime,
        }
    }

    /// Names of the spans of everything received so far, one list per export.
    pub(crate) fn spans(&self) -> Vec<String> {
        let scopes = self
            .traces
            .try_iter()
            .flat_map(|export| export.resource_spans)
            .flat_map(|spans| spans.scope_spans);
        scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
    }

    pub(crate) fn next_traces(&self) -> ExportTraceServiceRequest {
        self.traces.recv_timeout(PATIENCE).expect("no traces arrived")
    }

    pub(crate) fn next_metrics(&self) -> ExportMetricsServiceRequest {
        self.metrics.recv_timeout(PATIENCE).expect("no metrics arrived")
    }

    pub(crate) fn next_logs(&self) -> ExportLogsServiceRequest {
        self.logs.recv_timeout(PATIENCE).expect("no logs arrived")
    }
}

struct Sink<T>(SyncSender<T>);

impl<T> Sink<T> {
    fn receive(&self, request: Request<T>) -> Result<(), Status> {
        self.0
            .try_send(request.into_inner())
            .map_err(|error| Status::resource_exhausted(error.to_string()))
    }
}

#[tonic::async_trait]
impl TraceService for Sink<ExportTraceServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.receive(request)?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink<ExportMetricsServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.receive(request)?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Sink<ExportLogsServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.receive(request)?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
