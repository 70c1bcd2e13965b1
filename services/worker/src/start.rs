//! From the command line to a running worker: configuration, telemetry, runtime, in this order and each checked before the next.

use std::time::{Duration, Instant};

use kr_boot::config::Environment;
use kr_boot::telemetry::{Identity, Start, Telemetry};
use kr_contract::WorkerInstanceId;

use crate::engine::Life;
use crate::error::Error;
use crate::lifeline::Lifeline;
use crate::options::Options;
use crate::{blas, metrics, run};

/// How long telemetry may take to leave at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a worker on `options` until it ends. `started` is when the process did.
///
/// # Errors
/// When it cannot start, or breaks off.
pub(crate) fn start(options: Options, started: Instant) -> Result<(), Error> {
    let environment = Environment::of_process();
    let config = options.load(environment.clone()).map_err(Error::Configuration)?;
    // Before anything else is opened: a wrong number must not hit a descriptor of our own.
    let lifeline = config.value.lifeline_fd.map(Lifeline::open).transpose();
    let lifeline = lifeline.map_err(|error| Error::lifeline(&error, &config))?;
    let instance = WorkerInstanceId(getrandom::u64().map_err(Error::Random)?);
    let telemetry = Telemetry::start(Start {
        config: &config.value.telemetry,
        environment: &environment,
        identity: Identity {
            service: "kr-worker",
            version: env!("CARGO_PKG_VERSION"),
            instance_id: instance.to_string(),
            name: format!("kr-worker {}", config.value.name()),
        },
        buckets: metrics::BUCKETS,
    })
    .map_err(Error::Telemetry)?;
    blas::check(&config.value, &environment)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(async {
        let life = Life { instance, started };
        let result = run::run(&config, lifeline, &telemetry, life).await;
        telemetry.shutdown(FLUSH_TIMEOUT).await;
        result
    });
    // The engine's supervisor may still wait for a step that does not end.
    runtime.shutdown_background();
    result
}
