//! The worker's configuration: defaults < TOML file < `KR_WORKER__…` < flags.

mod limits;

use std::path::PathBuf;
use std::time::Duration;

use kr_boot::config::{Problem, Validate, duration};
use kr_boot::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

use crate::fake::FakeSpec;
use crate::listen::Listen;
pub(crate) use limits::{LimitsConfig, PrefixCacheConfig};

/// What configuration variables start with.
pub(crate) const ENV_PREFIX: &str = "KR_WORKER__";

/// The worker's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Name in logs and telemetry; by default that of the model's folder.
    pub(crate) name: Option<String>,
    /// Folder of the model (config.json, safetensors, tokenizer.json), or the name of one in the model cache.
    pub(crate) model: Option<PathBuf>,
    /// Runs a fake model instead, at this pace; `model` then only lends vocabulary and tokenizer.
    pub(crate) fake: Option<FakeSpec>,
    /// Where to listen.
    pub(crate) listen: Option<Listen>,
    /// Allows other TCP addresses than loopback, although nothing is encrypted or authenticated.
    pub(crate) insecure: bool,
    /// Gets the bound address as text once the model is loaded.
    pub(crate) address_file: Option<PathBuf>,
    /// Read end of a pipe whose other end the router holds; the worker exits when it closes.
    pub(crate) lifeline_fd: Option<u32>,
    /// Type of activations and KV; by default the weights' own.
    pub(crate) dtype: Option<Dtype>,
    /// Which kernels may be used.
    pub(crate) kernels: Kernels,
    /// What our own kernels make of activations that meet quantised weights.
    pub(crate) activations: Activations,
    /// Threads that compute; by default one for each processor. The linear algebra library has to be told by
    /// `OPENBLAS_NUM_THREADS` as well.
    pub(crate) threads: Option<u32>,
    /// Whether a few steps run before the worker is ready, so that what it announces of its speed was measured; by default where
    /// the model is real.
    pub(crate) warm_up: Option<bool>,
    /// Where what is measured of models and made from them is kept from one start to the next; by default the user's cache
    /// folder.
    pub(crate) cache_folder: Option<PathBuf>,
    /// How long running sequences may take to finish after SIGTERM or SIGINT.
    #[serde(with = "duration")]
    pub(crate) drain_timeout: Duration,
    pub(crate) limits: LimitsConfig,
    pub(crate) prefix_cache: PrefixCacheConfig,
    pub(crate) session: SessionConfig,
    pub(crate) telemetry: TelemetryConfig,
}

/// How the router's session is run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SessionConfig {
    /// How long the router's first message may take.
    #[serde(with = "duration")]
    pub(crate) hello_timeout: Duration,
    /// Frames that the router may lag behind before its session ends.
    pub(crate) frame_capacity: usize,
}

/// Type of activations and KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    Float32,
    Bfloat16,
    Float16,
}

/// Which kernels may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kernels {
    /// The fastest there are.
    #[default]
    Auto,
    /// MLX's own only.
    Mlx,
}

/// What our own kernels make of activations that meet quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Activations {
    /// Rounded to eight bits in small groups: the fastest.
    #[default]
    Int8,
    /// As they are.
    Float32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            model: None,
            fake: None,
            listen: None,
            insecure: false,
            address_file: None,
            lifeline_fd: None,
            dtype: None,
            kernels: Kernels::Auto,
            activations: Activations::Int8,
            threads: None,
            warm_up: None,
            cache_folder: None,
            drain_timeout: Duration::from_secs(30),
            limits: LimitsConfig::default(),
            prefix_cache: PrefixCacheConfig::default(),
            session: SessionConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(10),
            frame_capacity: 1024,
        }
    }
}

impl Config {
    /// Returns the worker's name.
    pub(crate) fn name(&self) -> String {
        let folder = self.model.as_deref().and_then(|folder| folder.file_name());
        let folder = folder.map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or(folder).unwrap_or_else(|| "fake".to_owned())
    }

    /// Returns the model's folder.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.model.as_deref().map(kr_boot::model_folder)
    }

    /// Returns whether steps run before the worker is ready.
    pub(crate) fn warms_up(&self) -> bool {
        self.warm_up.unwrap_or(self.fake.is_none())
    }

    /// Returns where measurements and what is made from models are kept.
    pub(crate) fn cache_folder(&self) -> PathBuf {
        self.cache_folder.clone().unwrap_or_else(kr_boot::cache_folder)
    }
}

impl Validate for Config {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = self.model_problems();
        match &self.listen {
            None => problems.push(Problem::without_value(
                "listen",
                "no address to listen on",
                "give --listen unix:PATH or --listen tcp://127.0.0.1:0",
            )),
            Some(listen) if !listen.is_local() && !self.insecure => problems.push(Problem::new(
                "listen",
                format!("\"{listen}\""),
                "other machines could connect, and nothing is encrypted or authenticated",
                "use a loopback address, or add --insecure where the network is trusted",
            )),
            Some(_) => {}
        }
        let under = |parent: &'static str| move |problem: Problem| problem.under(parent);
        problems.extend(self.limits.validate().into_iter().map(under("limits")));
        problems.extend(self.prefix_cache.validate().into_iter().map(under("prefix_cache")));
        problems.extend(self.session.validate().into_iter().map(under("session")));
        problems.extend(self.telemetry.validate().into_iter().map(under("telemetry")));
        problems
    }
}

impl Config {
    fn model_problems(&self) -> Vec<Problem> {
        let Some(folder) = self.folder() else {
            if self.fake.is_some() {
                return Vec::new();
            }
            let cure = "give --model DIR (see kr model pull), or --fake for a model without weights";
            return vec![Problem::without_value("model", "no model", cure)];
        };
        if folder.join("config.json").is_file() {
            return Vec::new();
        }
        let message = if folder.is_dir() {
            "no config.json in this folder"
        } else {
            "no such folder"
        };
        let cure = "name the folder of an imported model (see kr model list)";
        vec![Problem::new(
            "model",
            format!("{:?}", folder.display().to_string()),
            message,
            cure,
        )]
    }
}

impl Validate for SessionConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.frame_capacity == 0 {
            let cure = "set it to 1024 (the default)";
            problems.push(Problem::new("frame_capacity", 0, "expected 1 or more", cure));
        }
        if self.hello_timeout.is_zero() {
            let cure = "set it to \"10s\" (the default)";
            problems.push(Problem::new(
                "hello_timeout",
                "\"0s\"",
                "expected more than nothing",
                cure,
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> Config {
        Config {
            fake: Some("".parse().unwrap()),
            listen: Some("tcp:127.0.0.1:0".parse().unwrap()),
            ..Config::default()
        }
    }

    fn keys(config: &Config) -> Vec<String> {
        config.validate().into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn a_fake_needs_nothing_but_an_address() {
        assert_eq!(keys(&fake()), [""; 0]);
        assert_eq!(fake().name(), "fake");
    }

    #[test]
    fn nothing_at_all_is_refused_with_everything_it_lacks() {
        assert_eq!(keys(&Config::default()), ["model", "listen"]);
    }

    #[test]
    fn other_machines_are_let_in_only_when_told() {
        let mut config = fake();
        config.listen = Some("tcp:0.0.0.0:1".parse().unwrap());
        assert_eq!(keys(&config), ["listen"]);
        config.insecure = true;
        assert_eq!(keys(&config), [""; 0]);
    }

    #[test]
    fn nonsense_is_refused_by_its_key() {
        let mut config = fake();
        config.limits.max_sequences = 0;
        config.limits.pipeline_depth = Some(2);
        config.limits.kv_budget_bytes = Some(0);
        config.prefix_cache.block_tokens = 0;
        config.session.frame_capacity = 0;
        assert_eq!(
            keys(&config),
            [
                "limits.max_sequences",
                "limits.kv_budget_bytes",
                "limits.pipeline_depth",
                "prefix_cache.block_tokens",
                "session.frame_capacity"
            ]
        );
    }

    #[test]
    fn a_model_folder_must_hold_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = fake();
        config.fake = None;
        config.model = Some(folder.path().join("none"));
        assert!(config.validate()[0].to_string().contains("no such folder"));
        config.model = Some(folder.path().to_owned());
        assert!(config.validate()[0].to_string().contains("config.json"));
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(keys(&config), [""; 0]);
    }
}
