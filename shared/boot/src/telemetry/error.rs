//! Why telemetry cannot start.

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::error::OTelSdkError;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// Telemetry that cannot start. An unreachable collector is not one of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A standard variable has a value that cannot be honoured.
    #[error("{name} = \"{value}\" (from the environment): {message}; {cure}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        message: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The collector's address, certificate or headers cannot be used.
    #[error(
        "telemetry.otlp.endpoint = \"{endpoint}\": cannot set up the exporter; give http://HOST:PORT or https://HOST:PORT of an OTLP/gRPC collector"
    )]
    Exporter {
        /// The address given.
        endpoint: String,
        /// What the exporter said.
        #[source]
        source: ExporterBuildError,
    },
    /// The certificate authority's file cannot be read.
    #[error("telemetry.otlp.ca_file = \"{}\": cannot read it; name a PEM file or leave it out", path.display())]
    CaFile {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A log filter cannot be parsed.
    #[error("telemetry.log_filter = \"{filter}\": not a filter; write directives such as info,kr_router=debug")]
    Filter {
        /// The directives.
        filter: String,
        /// What the parser said.
        #[source]
        source: ParseError,
    },
    /// The Prometheus registry refused the exporter.
    #[error("cannot register the Prometheus exporter")]
    Prometheus(#[source] OTelSdkError),
    /// The exporters' runtime could not start.
    #[error("cannot start the telemetry runtime")]
    Runtime(#[source] std::io::Error),
    /// This process has a global subscriber already.
    #[error("telemetry is started twice in one process")]
    AlreadyStarted(#[source] TryInitError),
}

impl Error {
    /// Returns whether the user can repair this by other settings, rather than by a better machine.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Variable { .. } | Self::Exporter { .. } | Self::CaFile { .. } | Self::Filter { .. } => true,
            Self::Prometheus(_) | Self::Runtime(_) | Self::AlreadyStarted(_) => false,
        }
    }
}
