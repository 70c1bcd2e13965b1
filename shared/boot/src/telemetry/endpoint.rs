//! Where each signal goes, by configuration and the standard variables.

use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::{Error, OtlpConfig, TelemetryConfig};
use crate::config::Environment;

/// The collector of each signal, if it has one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) traces: Option<String>,
    pub(super) metrics: Option<String>,
    pub(super) logs: Option<String>,
}

impl Endpoints {
    pub(super) fn any(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

/// Returns where signals go: nowhere if `OTEL_SDK_DISABLED`, else to the configured endpoint, else to that of the signal's
/// own variable, else to `OTEL_EXPORTER_OTLP_ENDPOINT`. `OTEL_{TRACES,METRICS,LOGS}_EXPORTER=none` leaves one out.
pub(super) fn resolve(config: &TelemetryConfig, environment: &Environment) -> Result<Endpoints, Error> {
    if environment
        .get("OTEL_SDK_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return Ok(Endpoints::default());
    }
    let signal = |name: &str| {
        if environment.get(&format!("OTEL_{name}_EXPORTER")) == Some("none") {
            return None;
        }
        let own = || environment.get(&format!("OTEL_EXPORTER_OTLP_{name}_ENDPOINT"));
        let shared = || environment.get("OTEL_EXPORTER_OTLP_ENDPOINT");
        config
            .otlp
            .endpoint
            .as_deref()
            .or_else(own)
            .or_else(shared)
            .map(str::to_owned)
    };
    let endpoints = Endpoints {
        traces: signal("TRACES"),
        metrics: signal("METRICS"),
        logs: signal("LOGS"),
    };
    match environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") {
        Some(value) if endpoints.any() && value != "grpc" => Err(Error::Variable {
            name: "OTEL_EXPORTER_OTLP_PROTOCOL",
            value: value.to_owned(),
            message: "only grpc is supported",
            cure: "set it to grpc and give the collector's gRPC port, usually 4317",
        }),
        _ => Ok(endpoints),
    }
}

/// Applies address, time limit and certificates to an exporter's builder.
pub(super) fn connect<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    config: &OtlpConfig,
    endpoint: &str,
) -> Result<B, Error> {
    let builder = builder.with_endpoint(endpoint).with_timeout(config.timeout);
    if !endpoint.starts_with("https:") {
        return Ok(builder);
    }
    let tls = match &config.ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|source| Error::CaFile {
                path: path.clone(),
                source,
            })?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    Ok(builder.with_tls_config(tls))
}
