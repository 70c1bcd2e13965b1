//! What a worker that this router starts is told, as configuration variables.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use kr_boot::telemetry::{LogFormat, TelemetryConfig};

use crate::config::{Config, ModelConfig, WorkerSettings};
use crate::workers::{LocalWorker, SocketDir};

/// Lays out a local worker of a model that is told `settings`.
pub(super) fn lay_out(
    config: &Config,
    (model, settings): (&ModelConfig, &WorkerSettings),
    place: (PathBuf, Arc<SocketDir>),
) -> LocalWorker {
    let mut environment = telemetry(&config.telemetry, std::io::stderr().is_terminal());
    environment.extend(settings.variables());
    // The library reads its number of threads before the worker's first line runs.
    environment.extend(
        settings
            .threads
            .map(|threads| ("OPENBLAS_NUM_THREADS".to_owned(), threads.to_string())),
    );
    let (program, sockets) = place;
    LocalWorker {
        program,
        model: model.folder(),
        options: model.fake.iter().map(|pace| format!("--fake={pace}")).collect(),
        environment,
        sockets,
        stop_grace: config.worker.stop_timeout,
    }
}

/// Returns the variables that make a worker log and export as this process does; what is unset here is left to the
/// worker's own environment. Its standard error is a pipe to ours, so it cannot see a terminal by itself.
fn telemetry(config: &TelemetryConfig, terminal: bool) -> Vec<(String, String)> {
    let defaults = TelemetryConfig::default();
    let format = match config.log_format {
        LogFormat::Auto if terminal => Some("human"),
        LogFormat::Auto => None,
        LogFormat::Human => Some("human"),
        LogFormat::Json => Some("json"),
    };
    let level = (config.level != defaults.level).then(|| config.level.as_str().to_owned());
    let ca_file = config.otlp.ca_file.as_ref().map(|path| path.display().to_string());
    let settings = [
        ("LEVEL", level),
        ("LOG_FORMAT", format.map(str::to_owned)),
        ("LOG_FILTER", config.log_filter.clone()),
        ("OTLP__ENDPOINT", config.otlp.endpoint.clone()),
        ("OTLP__CA_FILE", ca_file),
        (
            "OTLP__SAMPLE_RATIO",
            config.otlp.sample_ratio.map(|ratio| ratio.to_string()),
        ),
    ];
    let set = settings.into_iter().filter_map(|(key, value)| Some((key, value?)));
    set.map(|(key, value)| (format!("KR_WORKER__TELEMETRY__{key}"), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_log_and_export_as_the_router_does() {
        let mut config = TelemetryConfig::default();
        assert_eq!(telemetry(&config, false), []);
        config.otlp.endpoint = Some("http://127.0.0.1:4317".to_owned());
        let told = telemetry(&config, true);
        let pair = |key: &str, value: &str| (format!("KR_WORKER__TELEMETRY__{key}"), value.to_owned());
        assert_eq!(
            told,
            [
                pair("LOG_FORMAT", "human"),
                pair("OTLP__ENDPOINT", "http://127.0.0.1:4317")
            ]
        );
    }
}
