//! The router's configuration: defaults < TOML file < `KR_ROUTER__…` < flags. An immutable snapshot; every check that needs
//! no model loaded is in `config/checks.rs`.

mod checks;
mod options;
#[cfg(test)]
mod tests;
mod worker;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kr_boot::config::duration;
use kr_boot::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

pub(crate) use options::{Options, Task};
pub(crate) use worker::{WorkerConfig, WorkerSettings};

use crate::adaptive::Bounds;
use crate::coalesce::Coalescing;
use crate::policy::PolicyKind;
use crate::queue::QueueLimits;

/// What configuration variables start with.
pub(crate) const ENV_PREFIX: &str = "KR_ROUTER__";

/// The router's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What is served.
    pub(crate) models: Vec<ModelConfig>,
    pub(crate) grpc: GrpcConfig,
    pub(crate) http: HttpConfig,
    pub(crate) queue: QueueConfig,
    pub(crate) batch: BatchConfig,
    /// Which worker takes a request: `affinity`, `least_load`, `power_of_two` or `round_robin`.
    pub(crate) placement: String,
    pub(crate) coalescing: CoalescingConfig,
    pub(crate) limits: LimitsConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) drain: DrainConfig,
    pub(crate) auth: AuthConfig,
    /// Allows addresses that other machines can reach, although nothing is encrypted.
    pub(crate) insecure: bool,
    /// Gets the bound addresses as JSON once every model has a ready worker.
    pub(crate) address_file: Option<PathBuf>,
    pub(crate) telemetry: TelemetryConfig,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelConfig {
    /// The name requests use; by default that of the folder.
    pub(crate) name: String,
    /// A folder with tokenizer.json (and, for local workers, the weights), or the name of one in the model cache.
    pub(crate) path: PathBuf,
    /// The model's SHA-256, where only that one will do.
    pub(crate) digest: Option<String>,
    /// Other names for it.
    pub(crate) aliases: Vec<String>,
    /// Who runs it; by default one local worker.
    pub(crate) workers: Vec<ModelWorkers>,
    /// Makes local workers compute nothing and answer at this pace: `step_ms=5,per_decode_us=20`. For trials of the router.
    pub(crate) fake: Option<String>,
}

/// Workers of a model: one of the two.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelWorkers {
    /// Starts this many on this machine.
    pub(crate) spawn: Option<u32>,
    /// Uses one that runs already: `unix:PATH` or `tcp://HOST:PORT`.
    pub(crate) address: Option<String>,
    /// What those started here are told otherwise than `[worker]` says.
    pub(crate) settings: WorkerSettings,
}

/// The gRPC port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GrpcConfig {
    pub(crate) address: SocketAddr,
    /// Whether reflection is served.
    pub(crate) reflection: bool,
    /// Streams of one connection at a time.
    pub(crate) max_concurrent_streams: u32,
    /// Open connections.
    pub(crate) max_connections: usize,
    /// Time for a new connection's first bytes.
    #[serde(with = "duration")]
    pub(crate) handshake_timeout: Duration,
    /// A connection that is silent this long is asked for a sign of life.
    #[serde(with = "duration")]
    pub(crate) keepalive_interval: Duration,
    /// And closed if it gives none within this.
    #[serde(with = "duration")]
    pub(crate) keepalive_timeout: Duration,
}

/// The HTTP port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpConfig {
    pub(crate) address: SocketAddr,
    /// Open connections.
    pub(crate) max_connections: usize,
}

/// The queue of each model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueueConfig {
    /// Requests that may wait.
    pub(crate) capacity: usize,
    /// Requests of one tenant that may wait; by default as many as of all.
    pub(crate) capacity_per_tenant: Option<usize>,
    /// How long a request waits while no worker is ready.
    #[serde(with = "duration")]
    pub(crate) max_wait: Duration,
    /// Waiting this long is worth one priority.
    #[serde(with = "duration")]
    pub(crate) ageing: Duration,
    /// Tokens, of prompts and answers together, that a tenant sends in one turn where several wait.
    pub(crate) turn_tokens: u32,
    /// Whether a request is refused at once that cannot start before its deadline, by the rates measured.
    pub(crate) refuse_late: bool,
}

/// How many sequences each worker has at once. Between the bounds it is measured; equal bounds fix it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BatchConfig {
    /// Fewest sequences that a worker is left with while more wait.
    pub(crate) min_sequences: u32,
    /// Most sequences; a worker that can hold fewer gets fewer.
    pub(crate) max_sequences: u32,
    /// Longest time between a sequence's tokens to keep to; 0: only throughput counts.
    #[serde(with = "duration")]
    pub(crate) token_time: Duration,
    /// How long a request is held back for others to start with it; 0: not at all.
    #[serde(with = "duration")]
    pub(crate) hold: Duration,
}

/// Identical requests in flight whose answers leave nothing to chance share one sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CoalescingConfig {
    pub(crate) enabled: bool,
    /// Also where they are of different tenants, who then can tell by the time what others ask.
    pub(crate) across_tenants: bool,
}

/// Bounds on requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    /// Bytes of one request message.
    pub(crate) max_message_bytes: usize,
    /// Tokens of a prompt; 0: as many as the model's context allows.
    pub(crate) max_prompt_tokens: u32,
    /// `max_tokens` of a request that has none.
    pub(crate) default_max_tokens: u32,
    /// Calls of all clients at a time.
    pub(crate) max_in_flight: usize,
    /// Requests of one tenant at a time; one with several answers counts once for each.
    pub(crate) max_in_flight_per_tenant: usize,
    /// Answers to one request (`n`).
    pub(crate) max_choices: u32,
}

/// What happens after SIGTERM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DrainConfig {
    /// Time between saying NOT_SERVING and accepting nothing more, for load balancers to notice.
    #[serde(with = "duration")]
    pub(crate) delay: Duration,
    /// Time for running requests to finish after that.
    #[serde(with = "duration")]
    pub(crate) timeout: Duration,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AuthConfig {
    /// A file of `ID:SHA256` lines, one for each API key. Without it everybody may call.
    pub(crate) api_keys_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            grpc: GrpcConfig::default(),
            http: HttpConfig::default(),
            queue: QueueConfig::default(),
            batch: BatchConfig::default(),
            placement: PolicyKind::default().to_string(),
            coalescing: CoalescingConfig::default(),
            limits: LimitsConfig::default(),
            worker: WorkerConfig::default(),
            drain: DrainConfig::default(),
            auth: AuthConfig::default(),
            insecure: false,
            address_file: None,
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            reflection: true,
            max_concurrent_streams: 1024,
            max_connections: 512,
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            max_connections: 128,
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        let limits = QueueLimits::default();
        Self {
            capacity: limits.capacity,
            capacity_per_tenant: None,
            max_wait: limits.max_wait_without_worker,
            ageing: limits.ageing,
            turn_tokens: u32::try_from(limits.turn_tokens).unwrap_or(u32::MAX),
            refuse_late: limits.refuse_late,
        }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self {
            min_sequences: bounds.least,
            max_sequences: bounds.most,
            token_time: Duration::ZERO,
            hold: Duration::ZERO,
        }
    }
}

impl Default for CoalescingConfig {
    fn default() -> Self {
        let Coalescing {
            enabled,
            across_tenants,
        } = Coalescing::default();
        Self {
            enabled,
            across_tenants,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 << 20,
            max_prompt_tokens: 0,
            default_max_tokens: 512,
            max_in_flight: 4096,
            max_in_flight_per_tenant: 1024,
            max_choices: 16,
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
        }
    }
}

impl ModelConfig {
    /// Returns the model's folder: `path` itself, or, if that is a bare name, the folder of that name in the model cache.
    pub(crate) fn folder(&self) -> PathBuf {
        kr_boot::model_folder(&self.path)
    }

    /// Returns the name requests use.
    pub(crate) fn served_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let folder = self.folder();
        let folder = folder.canonicalize().unwrap_or(folder);
        folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Returns who runs it, the default filled in.
    pub(crate) fn worker_groups(&self) -> Vec<ModelWorkers> {
        if self.workers.is_empty() {
            return vec![ModelWorkers {
                spawn: Some(1),
                ..ModelWorkers::default()
            }];
        }
        self.workers.clone()
    }
}
