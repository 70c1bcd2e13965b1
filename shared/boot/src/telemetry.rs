//! Logs, traces and metrics of a process.
//!
//! One set of instruments feeds both OTLP and `/metrics`. Nothing here can slow or stop serving: buffers are bounded, what
//! does not fit or arrive is counted in `kr.telemetry.dropped`, and exporters live on threads of their own. Must not know
//! which spans and instruments the services have.

mod config;
mod console;
mod delivery;
mod endpoint;
mod error;
mod filter;
mod logs;
mod metrics;
mod propagation;
mod resource;
#[cfg(test)]
mod tests;
mod traces;

pub use config::{Level, LogFormat, OtlpConfig, TelemetryConfig};
pub use error::Error;
pub use propagation::{inject_traceparent, set_parent};
pub use resource::Identity;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::{InstrumentationScope, trace::TracerProvider as _};
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry};

use crate::buckets::Buckets;
use crate::config::Environment;
use crate::semantic;
use delivery::{Delivery, Signal};

/// The media type of [`Telemetry::render_prometheus`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The longest that [`Telemetry::shutdown`] takes, whatever it is told.
pub const MAX_SHUTDOWN: Duration = Duration::from_secs(3);

/// What [`Telemetry::start`] needs.
#[derive(Debug)]
pub struct Start<'a> {
    /// The service's `telemetry` section.
    pub config: &'a TelemetryConfig,
    /// For the standard `OTEL_*` variables.
    pub environment: &'a Environment,
    /// Who is speaking.
    pub identity: Identity,
    /// Boundaries of the service's histograms.
    pub buckets: &'a [Buckets],
}

/// The telemetry of this process. Share it in an `Arc`.
#[derive(Debug)]
pub struct Telemetry {
    registry: prometheus::Registry,
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
    loggers: Option<SdkLoggerProvider>,
    /// Drives the exporters' connections, apart from the runtime that serves.
    runtime: Option<Runtime>,
}

impl Telemetry {
    /// Starts telemetry and makes it the destination of every `tracing` span and event of this process.
    ///
    /// Traces, metrics and logs go to a collector only if an endpoint is configured, here or by
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`. A collector that cannot be reached is no error.
    ///
    /// # Errors
    /// A setting or `OTEL_*` variable that cannot be used ([`Error::is_configuration`]), or a second start in one process.
    pub fn start(start: Start<'_>) -> Result<Self, Error> {
        let (telemetry, subscriber) = Self::build(start)?;
        subscriber.try_init().map_err(Error::AlreadyStarted)?;
        Ok(telemetry)
    }

    /// Builds telemetry without making it global; for tests and for several in one process.
    ///
    /// # Errors
    /// As [`Self::start`], except for the second start.
    pub fn build(start: Start<'_>) -> Result<(Self, Dispatch), Error> {
        let Start {
            config,
            environment,
            identity,
            buckets,
        } = start;
        let endpoints = endpoint::resolve(config, environment)?;
        let resource = resource::build(&identity, environment);
        let sampler = traces::sampler(config, environment)?;
        let runtime = if endpoints.any() { Some(runtime()?) } else { None };
        let _connections = runtime.as_ref().map(Runtime::enter);
        let deliveries = Signal::ALL.map(|signal| Arc::new(Delivery::new(signal, config.otlp.queue_capacity)));
        let [for_traces, for_metrics, for_logs] = &deliveries;
        let otlp = &config.otlp;

        let tracers = match endpoints.traces {
            Some(endpoint) => Some(traces::provider(
                otlp,
                endpoint,
                (resource.clone(), sampler),
                for_traces,
            )?),
            None => None,
        };
        let loggers = match endpoints.logs {
            Some(endpoint) => Some(logs::provider(otlp, endpoint, resource.clone(), for_logs)?),
            None => None,
        };
        let reader = match endpoints.metrics {
            Some(endpoint) => Some(metrics::reader(otlp, endpoint, for_metrics)?),
            None => None,
        };
        let registry = prometheus::Registry::new();
        let meters = metrics::provider(&registry, reader, resource, buckets)?;
        let telemetry = Self {
            registry,
            meters,
            tracers,
            loggers,
            runtime,
        };
        delivery::count_drops(&telemetry.meter("kr.boot"), deliveries);
        let subscriber = telemetry.subscriber(config, &identity.name)?;
        Ok((telemetry, subscriber))
    }

    fn subscriber(&self, config: &TelemetryConfig, name: &str) -> Result<Dispatch, Error> {
        let traces = match &self.tracers {
            Some(tracers) => {
                let tracer = tracers.tracer_with_scope(scope("kr"));
                let layer = tracing_opentelemetry::layer()
                    .with_tracer(tracer)
                    .with_threads(false)
                    .with_location(false);
                Some(layer.with_filter(filter::without_feedback(config.level)?))
            }
            None => None,
        };
        let logs = match &self.loggers {
            Some(loggers) => {
                let bridge = opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(loggers);
                Some(bridge.with_filter(filter::without_feedback(config.level)?))
            }
            None => None,
        };
        let console = console::layer(config.log_format, name, std::io::stderr).with_filter(filter::console(config)?);
        Ok(Registry::default().with(traces).with(logs).with(console).into())
    }

    /// Returns a meter for the instruments of `scope`, for example `kr.router`.
    pub fn meter(&self, scope_name: &'static str) -> Meter {
        self.meters.meter_with_scope(scope(scope_name))
    }

    /// Returns all metrics in Prometheus' text format; serve as [`PROMETHEUS_CONTENT_TYPE`].
    pub fn render_prometheus(&self) -> String {
        metrics::render(&self.registry)
    }

    /// Sends everything buffered. Blocks up to the exporters' timeouts: not for async threads.
    pub fn flush(&self) {
        let results = [
            self.tracers.as_ref().map(SdkTracerProvider::force_flush),
            self.loggers.as_ref().map(SdkLoggerProvider::force_flush),
            Some(self.meters.force_flush()),
        ];
        for error in results.into_iter().flatten().filter_map(Result::err) {
            tracing::debug!(%error, "telemetry not flushed");
        }
    }

    /// Sends what is buffered and stops exporting, within `limit` or [`MAX_SHUTDOWN`], whichever is shorter. Returns
    /// whether everything was sent. `/metrics` is empty afterwards.
    ///
    /// # Cancellation
    /// Dropping this goes on sending in the background until the process exits.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        let limit = limit.min(MAX_SHUTDOWN);
        let (done, mut results) = tokio::sync::mpsc::channel(3);
        let mut expected = 0;
        let (tracers, loggers, meters) = (self.tracers.clone(), self.loggers.clone(), self.meters.clone());
        let stops: [Option<Stop>; 3] = [
            tracers.map(|provider| Box::new(move || provider.shutdown_with_timeout(limit).is_ok()) as Stop),
            loggers.map(|provider| Box::new(move || provider.shutdown_with_timeout(limit).is_ok()) as Stop),
            Some(Box::new(move || meters.shutdown_with_timeout(limit).is_ok())),
        ];
        for stop in stops.into_iter().flatten() {
            let done = done.clone();
            // A thread rather than the runtime's blocking pool, which a process waits for when it exits.
            let spawned = std::thread::Builder::new()
                .name("telemetry-stop".to_owned())
                .spawn(move || done.try_send(stop()));
            expected += usize::from(spawned.is_ok());
        }
        let all = async {
            let mut sent = true;
            for _ in 0..expected {
                sent &= results.recv().await.unwrap_or(false);
            }
            sent
        };
        tokio::time::timeout(limit, all).await.unwrap_or(false)
    }
}

type Stop = Box<dyn FnOnce() -> bool + Send>;

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn scope(name: &'static str) -> InstrumentationScope {
    InstrumentationScope::builder(name)
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(semantic::SCHEMA_URL)
        .build()
}

fn runtime() -> Result<Runtime, Error> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(Error::Runtime)
}
