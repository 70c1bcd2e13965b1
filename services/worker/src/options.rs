//! The command line.

use std::path::PathBuf;

use clap::Parser;
use kr_boot::config::{self, Environment, Flags, Loaded, Sources};

use crate::config::{Config, ENV_PREFIX};

/// One model's engine behind gRPC (kr.worker.v1). Started by kr-router, or by hand on another machine.
#[derive(Debug, Parser)]
#[command(name = "kr-worker", version)]
pub(crate) struct Options {
    /// Folder of the model (config.json, safetensors, tokenizer.json), or its name in the model cache
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<PathBuf>,
    /// Where to listen: unix:PATH or tcp://ADDRESS:PORT (port 0 takes a free one)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Name in logs and telemetry [default: the model folder's]
    #[arg(long)]
    name: Option<String>,
    /// Write the bound address to this file once the model is loaded
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,
    /// Exit when the pipe with this descriptor closes
    #[arg(long, value_name = "N")]
    lifeline_fd: Option<u32>,
    /// Sequences that run at once [default: 32]
    #[arg(long, value_name = "N")]
    max_sequences: Option<u32>,
    /// Memory for KV in bytes, the prefix cache included [default: measured]
    #[arg(long, value_name = "N")]
    kv_budget_bytes: Option<u64>,
    /// Longest sequence in tokens [default: the model's own limit]
    #[arg(long, value_name = "N")]
    max_context: Option<u32>,
    /// Input tokens of one step [default: 512]
    #[arg(long, value_name = "N")]
    max_step_tokens: Option<u32>,
    /// Threads that compute; OPENBLAS_NUM_THREADS should say the same [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Type of activations and KV: float32, bfloat16 or float16 [default: the weights' own]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Blocks of KV kept for requests that begin alike; 0 keeps none [default: a quarter of the memory for KV]
    #[arg(long, value_name = "N")]
    prefix_cache_blocks: Option<u32>,
    /// Be ready without having measured a few steps first
    #[arg(long)]
    no_warm_up: bool,
    /// Allow a TCP address that other machines can reach, unencrypted
    #[arg(long)]
    insecure: bool,
    /// Run a model without weights at a fixed pace, for benchmarks of a router: step_ms=5,per_decode_us=20
    #[arg(long, value_name = "SPEC", num_args = 0..=1, default_missing_value = "")]
    fake: Option<String>,
    /// TOML file with settings (weaker than KR_WORKER__… variables and flags)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Options {
    /// Merges file, environment and flags.
    ///
    /// # Errors
    /// With every problem there is.
    pub(crate) fn load(self, environment: Environment) -> Result<Loaded<Config>, config::Error> {
        let file = self.config.clone();
        config::load(Sources {
            file: file.as_deref(),
            environment,
            env_prefix: ENV_PREFIX,
            flags: self.into_flags(),
        })
    }

    fn into_flags(self) -> Flags {
        Flags::default()
            .set("model", "--model", self.model)
            .set("listen", "--listen", self.listen)
            .set("name", "--name", self.name)
            .set("address_file", "--address-file", self.address_file)
            .set("lifeline_fd", "--lifeline-fd", self.lifeline_fd)
            .set("limits.max_sequences", "--max-sequences", self.max_sequences)
            .set("limits.kv_budget_bytes", "--kv-budget-bytes", self.kv_budget_bytes)
            .set("limits.max_context_tokens", "--max-context", self.max_context)
            .set("limits.max_step_tokens", "--max-step-tokens", self.max_step_tokens)
            .set("threads", "--threads", self.threads)
            .set("prefix_cache.blocks", "--prefix-cache-blocks", self.prefix_cache_blocks)
            .set("warm_up", "--no-warm-up", self.no_warm_up.then_some(false))
            .set("dtype", "--dtype", self.dtype)
            .set("insecure", "--insecure", self.insecure.then_some(true))
            .set("fake", "--fake", self.fake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_stronger_than_the_environment() {
        let environment = Environment::from_iter([
            ("KR_WORKER__FAKE", "step_ms=1"),
            ("KR_WORKER__LISTEN", "tcp:127.0.0.1:7"),
            ("KR_WORKER__LIMITS__MAX_SEQUENCES", "3"),
        ]);
        let options = Options::parse_from(["kr-worker", "--listen", "tcp:127.0.0.1:8", "--max-context", "64"]);
        let config = options.load(environment).unwrap().value;
        assert_eq!(config.listen.unwrap().to_string(), "tcp://127.0.0.1:8");
        assert_eq!(config.limits.max_sequences, 3);
        assert_eq!(config.limits.max_context_tokens, Some(64));
        assert_eq!(config.fake.unwrap().to_string(), "step_ms=1");
    }

    #[test]
    fn unknown_settings_and_values_are_refused_together() {
        let environment = Environment::from_iter([("KR_WORKER__LIMITS__MAX_SEQUENZES", "3")]);
        let options = Options::parse_from(["kr-worker", "--fake", "--listen", "nowhere", "--dtype", "int4"]);
        let message = options.load(environment).unwrap_err().to_string();
        for named in [
            "max_sequenzes",
            "KR_WORKER__LIMITS__MAX_SEQUENZES",
            "nowhere",
            "--listen",
            "int4",
        ] {
            assert!(message.contains(named), "{named} is not in: {message}");
        }
    }
}
