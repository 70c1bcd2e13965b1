//! A router with its workers, as processes.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use kr_proto::serve::inference_service_client::InferenceServiceClient;
use kr_proto::serve::model_service_client::ModelServiceClient;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::transport::Channel;

use crate::process::{Program, children, program, signal_process};
use crate::{eventually, free_port, real_model};

/// Services that compute use every core and 0.6 GB for each worker: so many of them run at once in one test process.
/// (nextest runs a process for each test; its limit is in `.config/nextest.toml`.)
static COMPUTING: Semaphore = Semaphore::const_new(2);

/// How to start a service.
#[derive(Debug)]
pub struct ServiceBuilder {
    toml: String,
    computes: bool,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl ServiceBuilder {
    /// Adds a flag or two to kr-router's command line.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Adds lines to the configuration file, before its models.
    #[must_use]
    pub fn configuration(mut self, toml: &str) -> Self {
        self.toml = format!("{toml}\n{}", self.toml);
        self
    }

    /// Sets an environment variable of the router (its workers inherit it).
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the service and waits until every model can answer.
    ///
    /// # Panics
    /// When it ends instead; the message holds what it printed.
    pub async fn start(self) -> Service {
        let place = match self.computes {
            true => Some(COMPUTING.acquire().await.expect("nobody closes it")),
            false => None,
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let addresses = folder.path().join("addresses.json");
        let mut command = self.command(folder.path());
        command
            .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--address-file")
            .arg(&addresses);
        let mut router = Program::start(&mut command);
        let addresses = await_addresses(&mut router, &addresses).await;
        Service::at(addresses, (router, folder, place))
    }

    /// Starts the service and waits until it listens, ready or not.
    ///
    /// # Panics
    /// When it ends instead; the message holds what it printed.
    pub async fn start_without_waiting(self) -> Service {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [grpc, http] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let mut router = Program::start(self.command(folder.path()).args(["--grpc", &grpc, "--http", &http]));
        eventually("the service's HTTP port", || {
            assert_running(&mut router);
            let http = http.clone();
            async move { tokio::net::TcpStream::connect(http).await.ok() }
        })
        .await;
        Service::at((grpc, http), (router, folder, None))
    }

    /// A router with this configuration, without its addresses.
    fn command(&self, folder: &Path) -> Command {
        let configuration = folder.join("router.toml");
        std::fs::write(&configuration, &self.toml).expect("the configuration can be written");
        let mut command = Command::new(program("kr-router"));
        command.arg("--config").arg(&configuration).args(&self.arguments);
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        // No load balancer watches a test.
        command.env("KR_ROUTER__DRAIN__DELAY", "10ms");
        // Nor does any wait for a measured speed.
        command.env("KR_ROUTER__WORKER__WARM_UP", "false");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn assert_running(router: &mut Program) {
    let ended = router.try_wait();
    assert!(ended.is_none(), "kr-router ended ({ended:?}):\n{}", router.output());
}

async fn await_addresses(router: &mut Program, file: &Path) -> (String, String) {
    let text = eventually("the service's address file", || {
        assert_running(router);
        let text = std::fs::read_to_string(file).ok();
        async move { text }
    })
    .await;
    let addresses: serde_json::Value = serde_json::from_str(&text).expect("the address file is JSON");
    let address = |name: &str| {
        addresses[name]
            .as_str()
            .expect("both addresses are in the file")
            .to_owned()
    };
    (address("grpc"), address("http"))
}

/// A running service. Its processes end with it.
#[derive(Debug)]
pub struct Service {
    router: Program,
    grpc: String,
    http: String,
    channel: Channel,
    folder: TempDir,
    _place: Option<SemaphorePermit<'static>>,
}

impl Service {
    fn at(
        (grpc, http): (String, String),
        (router, folder, place): (Program, TempDir, Option<SemaphorePermit<'static>>),
    ) -> Self {
        let channel = Channel::from_shared(format!("http://{grpc}"))
            .expect("an address is a URI")
            .connect_lazy();
        Self {
            router,
            grpc,
            http,
            channel,
            folder,
            _place: place,
        }
    }

    /// A service of the real model in float32 with `workers` workers.
    #[must_use]
    pub fn real(workers: u32) -> ServiceBuilder {
        Self::of(&real_model("SmolLM2-135M-Instruct"), workers)
    }

    /// A service of the model in `folder`.
    #[must_use]
    pub fn of(folder: &Path, workers: u32) -> ServiceBuilder {
        let toml = format!(
            "[[models]]\nname = \"demo\"\npath = {:?}\naliases = [\"other-name\"]\n[[models.workers]]\nspawn = {workers}\n",
            folder.display().to_string()
        );
        ServiceBuilder {
            toml,
            computes: true,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// A service whose workers compute nothing and take as long as `fake` says; tokenizer of the real model.
    #[must_use]
    pub fn fake(workers: u32, fake: &str) -> ServiceBuilder {
        let builder = Self::real(workers);
        let toml = builder
            .toml
            .replacen("[[models.workers]]", &format!("fake = {fake:?}\n[[models.workers]]"), 1);
        ServiceBuilder {
            toml,
            computes: false,
            ..builder
        }
    }

    /// `HOST:PORT` of the gRPC side.
    #[must_use]
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of the HTTP side.
    #[must_use]
    pub fn http(&self) -> &str {
        &self.http
    }

    /// A folder that goes with the service.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The connection all clients of this service share.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client of the inference service.
    #[must_use]
    pub fn inference(&self) -> InferenceServiceClient<Channel> {
        InferenceServiceClient::new(self.channel())
    }

    /// A client of the model service.
    #[must_use]
    pub fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel())
    }

    /// The router process.
    pub fn router(&mut self) -> &mut Program {
        &mut self.router
    }

    /// Returns the process ids of the router's workers.
    ///
    /// # Panics
    /// When the router has ended.
    #[must_use]
    pub fn worker_ids(&self) -> Vec<u32> {
        children(self.router.id().expect("the router runs"))
    }

    /// Sends a signal to a worker.
    pub fn signal_worker(&self, id: u32, signal: &str) {
        signal_process(id, signal);
    }

    /// Gets a page of the HTTP side: status code and body.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> (u16, String) {
        crate::get(&self.http, path).await
    }

    /// Returns the sum of all series of a metric whose line contains `labels`; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = self.get("/metrics").await;
        let series = page
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        let series = series.filter(|line| line[name.len()..].starts_with(['{', ' ']));
        series
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Ends the service as an operator does and returns its exit status.
    pub async fn stop(mut self) -> (ExitStatus, String) {
        self.router.signal("TERM");
        let status = self.router.wait().await;
        (status, self.router.output())
    }
}

/// Lines of the log that a failed test shows.
const SHOWN_LINES: usize = 40;

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.router.output();
            let lines: Vec<_> = output.lines().collect();
            eprintln!("the end of the service's log:");
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}
