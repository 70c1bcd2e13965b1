//! The `telemetry` section of a service's configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::Uri;

use super::filter;
use crate::config::{Problem, Validate, duration};

/// How much a process says, and to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The least important spans and log lines of kr's own crates that are kept. Other crates stay at `info`.
    pub level: Level,
    /// How log lines on standard error look.
    pub log_format: LogFormat,
    /// Filter directives for standard error, in place of `level`: `info,kr_router::queue=trace`.
    pub log_filter: Option<String>,
    /// Export to a collector.
    pub otlp: OtlpConfig,
}

/// Export over OTLP/gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// The collector, `http://127.0.0.1:4317`. Without one (and without `OTEL_EXPORTER_OTLP_ENDPOINT`) nothing is exported.
    pub endpoint: Option<String>,
    /// Certificates in PEM to trust for `https` instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Limit for sending one batch.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Time between two exports of metrics.
    #[serde(with = "duration")]
    pub metrics_interval: Duration,
    /// Share of new traces that are recorded, 0 to 1; a caller's decision is always followed. Without it,
    /// `OTEL_TRACES_SAMPLER` decides, else all are.
    pub sample_ratio: Option<f64>,
    /// Spans, and log records, that may wait for export; more are dropped and counted.
    pub queue_capacity: usize,
}

/// Importance of a span or log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Returns the name that filter directives use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `human` if standard error is a terminal, `json` otherwise.
    Auto,
    /// One JSON object per line.
    Json,
    /// For reading.
    Human,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            level: Level::Info,
            log_format: LogFormat::Auto,
            log_filter: None,
            otlp: OtlpConfig::default(),
        }
    }
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            timeout: Duration::from_secs(3),
            metrics_interval: Duration::from_secs(15),
            sample_ratio: None,
            queue_capacity: 2048,
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .otlp
            .validate()
            .into_iter()
            .map(|problem| problem.under("otlp"))
            .collect();
        if filter::console(self).is_err() {
            let shown = format!("{:?}", self.log_filter.as_deref().unwrap_or_default());
            let cure = "write directives such as info,kr_router=debug";
            problems.push(Problem::new("log_filter", shown, "not a filter", cure));
        }
        problems
    }
}

impl Validate for OtlpConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(endpoint) = self.endpoint.as_deref().filter(|endpoint| !is_http(endpoint)) {
            let cure = "give http://HOST:PORT or https://HOST:PORT";
            problems.push(Problem::new(
                "endpoint",
                format!("{endpoint:?}"),
                "expected the URL of an OTLP/gRPC collector",
                cure,
            ));
        }
        if let Some(ratio) = self.sample_ratio.filter(|ratio| !(0.0..=1.0).contains(ratio)) {
            let cure = "set it to 1 for every trace, 0.1 for every tenth";
            problems.push(Problem::new(
                "sample_ratio",
                ratio,
                "expected a number from 0 to 1",
                cure,
            ));
        }
        if self.queue_capacity == 0 {
            problems.push(Problem::new(
                "queue_capacity",
                0,
                "expected 1 or more",
                "set it to 2048 (the default)",
            ));
        }
        for (key, duration) in [("timeout", self.timeout), ("metrics_interval", self.metrics_interval)] {
            if duration.is_zero() {
                problems.push(Problem::new(
                    key,
                    "\"0s\"",
                    "expected more than nothing",
                    "set it to a few seconds",
                ));
            }
        }
        problems
    }
}

fn is_http(endpoint: &str) -> bool {
    let uri = endpoint.parse::<Uri>();
    uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}
