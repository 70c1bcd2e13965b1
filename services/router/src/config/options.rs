//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use kr_boot::config::{self, Environment, Flags, Loaded, Sources};

use super::{Config, ENV_PREFIX, ModelConfig, ModelWorkers};

/// Serves language models over gRPC; starts the workers that compute them.
#[derive(Debug, Parser)]
#[command(name = "kr-router", version)]
pub(crate) struct Options {
    /// Folder of the model to serve, or its name in the model cache
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<PathBuf>,
    /// Workers to start for it [default: 1]
    #[arg(long, value_name = "N", requires = "model")]
    workers: Option<u32>,
    /// Address of the gRPC port [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Address of the HTTP port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Write the bound addresses to this file as JSON once every model is ready
    #[arg(long, value_name = "PATH")]
    address_file: Option<PathBuf>,
    /// Requests of each model that may wait [default: 256]
    #[arg(long, value_name = "N")]
    queue_capacity: Option<usize>,
    /// Sequences that each worker can run at once [default: 32]
    #[arg(long, value_name = "N")]
    max_sequences: Option<u32>,
    /// Threads of each worker's linear algebra
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Allow addresses that other machines can reach, unencrypted
    #[arg(long)]
    insecure: bool,
    /// TOML file with settings (weaker than KR_ROUTER__… variables and flags)
    #[arg(long, value_name = "FILE", env = "KR_ROUTER_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long, conflicts_with = "print_config")]
    check_config: bool,
    /// Print the configuration as it is in effect and exit
    #[arg(long)]
    print_config: bool,
    /// With --print-config: say where each setting comes from
    #[arg(long, requires = "print_config")]
    with_origin: bool,
}

/// What the process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Serve,
    CheckConfig,
    PrintConfig { with_origin: bool },
}

impl Options {
    pub(crate) fn task(&self) -> Task {
        match (self.check_config, self.print_config) {
            (true, _) => Task::CheckConfig,
            (_, true) => Task::PrintConfig {
                with_origin: self.with_origin,
            },
            (false, false) => Task::Serve,
        }
    }

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
        let workers = self.workers.unwrap_or(1);
        let models = self.model.map(|path| {
            vec![ModelConfig {
                path,
                aliases: vec!["default".to_owned()],
                workers: vec![ModelWorkers {
                    spawn: Some(workers),
                    ..ModelWorkers::default()
                }],
                ..ModelConfig::default()
            }]
        });
        Flags::default()
            .set("models", "--model", models)
            .set("grpc.address", "--grpc", self.grpc)
            .set("http.address", "--http", self.http)
            .set("address_file", "--address-file", self.address_file)
            .set("queue.capacity", "--queue-capacity", self.queue_capacity)
            .set("worker.max_sequences", "--max-sequences", self.max_sequences)
            .set("worker.threads", "--threads", self.threads)
            .set("insecure", "--insecure", self.insecure.then_some(true))
    }
}
