//! The worker's life: bind, load, serve, drain, end.

use std::time::Duration;

use kr_boot::config::Loaded;
use kr_boot::{Shutdown, Telemetry};
use kr_engine::{CommandError, EngineHandle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::address_file::AddressFile;
use crate::config::Config;
use crate::engine::{self, Life};
use crate::error::Error;
use crate::exit;
use crate::lifeline::Lifeline;
use crate::listen::{self, Bound, Listen};
use crate::metrics::Metrics;
use crate::profile::Profile;
use crate::readiness::{self, Readiness};
use crate::server::{self, WorkerServer};
use crate::session::{self, Sessions};

/// How long sessions and connections may take to end once the engine has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the running step may take when the worker must stop at once.
const STEP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long until a drain that found the engine's queue full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Runs one worker until it has drained, was told to stop at once, or failed.
///
/// # Errors
/// When it cannot start, or the engine breaks off.
pub(crate) async fn run(
    config: &Loaded<Config>,
    lifeline: Option<Lifeline>,
    telemetry: &Telemetry,
    life: Life,
) -> Result<(), Error> {
    let shutdown = Shutdown::new();
    let _signals = shutdown.listen().map_err(Error::Runtime)?;
    if let Some(lifeline) = lifeline {
        lifeline.watch(shutdown.clone()).map_err(Error::Runtime)?;
    }
    let metrics = Metrics::new(&telemetry.meter("kr.worker"));
    let Bound {
        listener,
        address,
        file,
    } = bind(config).await?;
    let readiness = readiness::channel();
    let starting = engine::start(&config.value).map_err(Error::Engine)?;
    let engine = starting.handle();
    let sessions = Sessions::new(
        session_config(&config.value),
        engine.clone(),
        readiness.clone(),
        metrics.clone(),
    );
    let server = WorkerServer::new(sessions.clone()).await?;
    let worker = Worker {
        readiness: readiness.clone(),
        engine,
        health: server.health(),
        shutdown,
    };
    let stop = CancellationToken::new();
    let mut serving = tokio::spawn(server.serve(listener, stop.clone()));
    tracing::info!(%address, "listening, the model is loading");
    tokio::task::spawn_blocking(move || starting.supervise(life, &readiness, &metrics));

    let result = tokio::select! {
        result = worker.live(&config.value, &address) => result,
        ended = &mut serving => return ended.unwrap_or(Ok(())),
    };
    drop(file);
    server::set_serving(&worker.health, false).await;
    if !worker.shutdown.now().is_cancelled() {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sessions.ended()).await;
        stop.cancel();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, serving).await;
    }
    result
}

async fn bind(config: &Loaded<Config>) -> Result<Bound, Error> {
    let listen = config.value.listen.as_ref().ok_or(Error::NoAddress)?;
    listen::bind(listen)
        .await
        .map_err(|error| Error::listen(&error, config))
}

fn session_config(config: &Config) -> session::Config {
    session::Config {
        hello_timeout: config.session.hello_timeout,
        frame_capacity: config.session.frame_capacity,
    }
}

/// What decides when the worker ends.
struct Worker {
    readiness: watch::Sender<Readiness>,
    engine: EngineHandle,
    health: HealthReporter,
    shutdown: Shutdown,
}

impl Worker {
    /// Follows the engine from load to end; drains it when the process is asked to stop.
    async fn live(&self, config: &Config, address: &Listen) -> Result<(), Error> {
        let mut readiness = self.readiness.subscribe();
        let mut announced = None;
        let mut asked_to_drain = false;
        loop {
            let now = readiness.borrow_and_update().clone();
            match now {
                Readiness::Loading => {}
                Readiness::Ready(profile) => {
                    if announced.is_none() {
                        announced = Some(self.announce(&profile, config, address).await?);
                    }
                }
                Readiness::Draining => server::set_serving(&self.health, false).await,
                Readiness::Drained => return Ok(()),
                Readiness::NotLoaded(reason) => return Err(Error::NotLoaded(reason)),
                Readiness::Failed(reason) => return Err(Error::Failed(reason)),
            }
            tokio::select! {
                _ = readiness.changed() => {}
                () = self.shutdown.now().cancelled() => return self.stop_now().await,
                () = self.shutdown.draining().cancelled(), if !asked_to_drain => {
                    asked_to_drain = true;
                    if matches!(*self.readiness.borrow(), Readiness::Loading) {
                        return self.stop_now().await;
                    }
                    self.drain(config.drain_timeout).await;
                }
            }
        }
    }

    async fn announce(
        &self,
        profile: &Profile,
        config: &Config,
        address: &Listen,
    ) -> Result<Option<AddressFile>, Error> {
        tracing::info!(
            model = config.name(),
            %address,
            instance = %profile.instance,
            architecture = profile.model.architecture,
            parameters = profile.model.parameter_count,
            fingerprint = %profile.model.fingerprint,
            context_tokens = profile.limits.context_tokens,
            max_sequences = profile.limits.max_sequences,
            kv_budget_bytes = profile.limits.kv_budget_bytes,
            prefix_cache_blocks = profile.limits.store_blocks,
            prefill_tokens_per_s = profile.warm_up.map(|warm_up| warm_up.prefill_tokens_per_s),
            decode_step_s = profile.warm_up.map(|warm_up| warm_up.decode_step.as_secs_f64()),
            mapped_bytes = profile.model.mapped_bytes,
            copied_bytes = profile.model.copied_bytes,
            load_time_s = profile.load_time.as_secs_f64(),
            "ready"
        );
        server::set_serving(&self.health, true).await;
        let path = config.address_file.as_deref();
        path.map(|path| AddressFile::write(path, address)).transpose()
    }

    async fn drain(&self, timeout: Duration) {
        tracing::info!(timeout_s = timeout.as_secs_f64(), "draining");
        self.readiness.send_if_modified(Readiness::start_draining);
        while self.engine.drain(timeout) == Err(CommandError::Busy) {
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Leaves what runs. The step that runs is waited for a moment, so that the process does not end under its feet.
    async fn stop_now(&self) -> Result<(), Error> {
        // A full queue does not matter: the process ends either way.
        let _ = self.engine.shutdown();
        std::thread::Builder::new()
            .name("last-resort".to_owned())
            .spawn(exit::abort_after_grace)
            .map_err(Error::Runtime)?;
        let mut readiness = self.readiness.subscribe();
        let _ = tokio::time::timeout(STEP_TIMEOUT, readiness.wait_for(Readiness::is_final)).await;
        Ok(())
    }
}
