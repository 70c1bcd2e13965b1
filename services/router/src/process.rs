//! The process from its command line to its exit code: configuration, ports, workers, serving, drain. Knows no request.

mod announce;
mod ports;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use kr_boot::config::{self, Environment, Loaded};
use kr_boot::telemetry::{Identity, Start};
use kr_boot::{Shutdown, Telemetry, exit};
use kr_proto::serve::inference_service_server::InferenceServiceServer;
use kr_proto::serve::model_service_server::ModelServiceServer;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;

use crate::admission::Admission;
use crate::config::{Config, Options, Task};
use crate::dispatch::{Dispatcher, Running};
use crate::health::Readiness;
use crate::inference::Inference;
use crate::metrics::{self, Metrics};
use crate::models::Models;
use crate::plan::Plan;
use crate::server::{self, ConnectionLimits, InFlight, Listener, Methods, Stack, Transport};
use crate::validate::{Limits, Validator};
use crate::workers::SocketDir;
use crate::{http, reflection};
use ports::Ports;

/// What ends the process other than a signal.
#[derive(Debug, thiserror::Error)]
enum Error {
    // Not transparent, so that the exit code finds these two in the chain.
    #[error("the configuration cannot be used")]
    Config(#[from] config::Error),
    #[error("telemetry cannot start")]
    Telemetry(#[from] kr_boot::telemetry::Error),
    #[error("the runtime cannot start")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Workers(#[from] crate::workers::Error),
    #[error("a descriptor set cannot be decoded")]
    Descriptors(#[from] prost::DecodeError),
    #[error("reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the gRPC port failed")]
    Grpc(#[from] tonic::transport::Error),
    #[error("the HTTP port failed")]
    Http(#[source] std::io::Error),
    #[error("a serving task ended unexpectedly")]
    Task(#[from] JoinError),
    #[error("the scheduling of a model ended unexpectedly; the log says why, please report it")]
    Scheduling,
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
}

/// Runs the process; returns its exit code.
pub(crate) fn run() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(usage) => {
            let _ = usage.print();
            let failed = usage.use_stderr();
            return ExitCode::from(if failed { exit::CONFIGURATION } else { 0 });
        }
    };
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report("kr-router", &error),
    }
}

fn start(options: Options) -> Result<(), Error> {
    let task = options.task();
    let environment = Environment::of_process();
    let loaded = options.load(environment.clone())?;
    if let Task::PrintConfig { with_origin } = task {
        return print(&match with_origin {
            true => loaded.render_with_origins(),
            false => loaded.render(),
        });
    }
    let plan = Plan::make(&loaded)?;
    if task == Task::CheckConfig {
        return print("configuration is valid\n");
    }
    let telemetry = Telemetry::start(Start {
        config: &loaded.value.telemetry,
        environment: &environment,
        identity: Identity {
            service: "kr-router",
            version: env!("CARGO_PKG_VERSION"),
            instance_id: format!("{:016x}", getrandom::u64().unwrap_or_default()),
            name: "kr-router".to_owned(),
        },
        buckets: &metrics::requests::BUCKETS,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(Error::Runtime)?;
    let served = runtime.block_on(serve(&loaded, plan, (Arc::new(telemetry), environment)));
    // Tokenizing may be under way for a client that has left; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

fn print(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)
}

async fn serve(
    loaded: &Loaded<Config>,
    plan: Plan,
    (telemetry, environment): (Arc<Telemetry>, Environment),
) -> Result<(), Error> {
    let config = &loaded.value;
    let shutdown = Shutdown::new();
    let _signals = shutdown.listen().map_err(Error::Runtime)?;
    let ports = Ports::bind(loaded).await?;
    let addresses = ports.addresses();
    let metrics = Arc::new(Metrics::new(&telemetry.meter("kr.router")));
    metrics
        .requests
        .begin(plan.catalog.models().iter().map(|model| &*model.name));
    let sockets = SocketDir::create(environment.get("XDG_RUNTIME_DIR").map(AsRef::as_ref))?;
    let (dispatcher, running) = Dispatcher::start(plan.setups(config, &sockets), metrics.clone());
    let closing = CancellationToken::new();
    let readiness = Readiness {
        catalog: plan.catalog.clone(),
        models: dispatcher.changes(),
        draining: shutdown.draining().clone(),
        closing: closing.clone(),
    };

    let services = services(config, &plan, (dispatcher, &metrics), &readiness)?;
    let (grpc, http) = ports.into_listeners(config, &metrics);
    let grpc = server::serve(grpc, services, transport(config), closing.clone().cancelled_owned());
    let routes = http::routes(readiness.clone(), telemetry.clone());
    let drained = CancellationToken::new();
    let tasks = Tasks {
        grpc: tokio::spawn(grpc),
        http: tokio::spawn(http::serve(http, routes, drained.clone().cancelled_owned())),
        closing,
        drained,
    };
    tracing::info!(grpc = %addresses.grpc, http = %addresses.http, "serving");
    let announcement = announce::when_ready(config.address_file.clone(), addresses, readiness);
    let announcement = tokio::spawn(announcement);

    let ended = tasks.until_drain(running, (config, &shutdown)).await;
    announcement.abort();
    // It may be at the file just now.
    let _ = announcement.await;
    announce::withdraw(config.address_file.as_deref());
    telemetry.shutdown(kr_boot::telemetry::MAX_SHUTDOWN).await;
    ended
}

/// The two ports at work, and what closes each.
struct Tasks {
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    http: JoinHandle<std::io::Result<()>>,
    /// Ends the gRPC port: no more calls, those that run go on.
    closing: CancellationToken,
    /// Ends the HTTP port, where the drain can be watched until it is over.
    drained: CancellationToken,
}

/// What a port may take to close once everything that ran on it has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Tasks {
    /// Serves until a signal comes, then drains: refuse, finish, stop the workers, close. A port or a model's loop that fails
    /// ends it all.
    async fn until_drain(
        mut self,
        mut running: Running,
        (config, shutdown): (&Config, &Shutdown),
    ) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.draining().cancelled() => {}
            grpc = &mut self.grpc => return Ok(grpc??),
            http = &mut self.http => return http?.map_err(Error::Http),
            () = running.failed() => return Err(Error::Scheduling),
        }
        tracing::info!("draining");
        // Health says NOT_SERVING from here on; whoever balances load needs a moment to read that.
        tokio::select! {
            () = tokio::time::sleep(config.drain.delay) => {}
            () = shutdown.now().cancelled() => {}
        }
        self.closing.cancel();
        tokio::select! {
            () = running.drain(config.drain.timeout) => {}
            // Dropping what runs ends the workers and fails what they had.
            () = shutdown.now().cancelled() => {}
        }
        self.drained.cancel();
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, async { (self.grpc.await, self.http.await) });
        if closed.await.is_err() {
            tracing::warn!("connections were still open at the end");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

fn services(
    config: &Config,
    plan: &Plan,
    (dispatcher, metrics): (Dispatcher, &Arc<Metrics>),
    readiness: &Readiness,
) -> Result<Routes, Error> {
    let limits = &config.limits;
    let inference = Inference {
        catalog: plan.catalog.clone(),
        validator: Validator::new(Limits {
            max_prompt_tokens: limits.max_prompt_tokens,
            default_max_tokens: limits.default_max_tokens,
            max_choices: limits.max_choices,
        }),
        admission: Admission::new(limits.max_in_flight_per_tenant),
        dispatcher: dispatcher.clone(),
        metrics: metrics.clone(),
    };
    let models = Models {
        catalog: plan.catalog.clone(),
        dispatcher,
    };
    let mut services = RoutesBuilder::default();
    // Compressed requests are taken; answers are small messages that compressing would only slow down.
    let inference = InferenceServiceServer::new(inference)
        .max_decoding_message_size(limits.max_message_bytes)
        .accept_compressed(CompressionEncoding::Gzip);
    services.add_service(inference);
    services.add_service(ModelServiceServer::new(models).max_decoding_message_size(limits.max_message_bytes));
    services.add_service(HealthServer::new(readiness.clone()));
    if config.grpc.reflection {
        reflection::add(&mut services)?;
    }
    Ok(server::layered(
        services.routes(),
        Stack {
            metrics: metrics.clone(),
            methods: Methods::of(&reflection::DESCRIPTORS)?,
            api_keys: plan.api_keys.clone(),
            in_flight: InFlight::new(limits.max_in_flight),
            max_message_bytes: limits.max_message_bytes,
        },
    ))
}

fn transport(config: &Config) -> Transport {
    Transport {
        max_concurrent_streams: config.grpc.max_concurrent_streams,
        keepalive_interval: config.grpc.keepalive_interval,
        keepalive_timeout: config.grpc.keepalive_timeout,
    }
}

/// Returns the bounds of a port's connections.
fn connections(config: &Config, max_connections: usize) -> ConnectionLimits {
    ConnectionLimits {
        max_connections,
        first_bytes: config.grpc.handshake_timeout,
    }
}

impl Ports {
    fn into_listeners(self, config: &Config, metrics: &Arc<Metrics>) -> (Listener, Listener) {
        let grpc = connections(config, config.grpc.max_connections);
        let http = connections(config, config.http.max_connections);
        (
            Listener::new(self.grpc, grpc, metrics.clone()),
            Listener::new(self.http, http, metrics.clone()),
        )
    }
}
