//! Which spans and events reach which layer.

use tracing_subscriber::EnvFilter;

use super::{Error, Level, TelemetryConfig};

/// Crates below the exporters. Their spans about sending spans would be sent too, and so on for ever.
const EXPORT_PATH: &str = "h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off";

/// Returns the filter of layers that export: own crates at `level`, others at `info`, those on the export path never.
pub(super) fn without_feedback(level: Level) -> Result<EnvFilter, Error> {
    parse(&format!("info,kr={},{EXPORT_PATH}", level.as_str()))
}

/// Returns the filter of standard error.
pub(super) fn console(config: &TelemetryConfig) -> Result<EnvFilter, Error> {
    match &config.log_filter {
        Some(directives) => parse(directives),
        // The SDK reports every failed export; `delivery` does so once in a while, which is enough.
        None => parse(&format!("info,kr={},opentelemetry=off", config.level.as_str())),
    }
}

fn parse(directives: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(directives).map_err(|source| Error::Filter {
        filter: directives.to_owned(),
        source,
    })
}
