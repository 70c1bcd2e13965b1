//! `kr`: the command line of kr-serve-mlx. Each command has one file; this one only chooses.

#![forbid(unsafe_code)]

mod answer;
mod bench;
mod chat;
mod client;
mod config;
mod error;
mod generate;
mod model;
mod options;
mod shell;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::Error;

/// Talk to kr-serve-mlx, get models, measure.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 64 wrong configuration, 69 server or hub not reachable, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "kr", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continue a prompt (or answer it, with --chat) and print the text as it comes.
    Generate(generate::Args),
    /// Hold a conversation.
    Chat(chat::Args),
    /// Get, import and list models.
    #[command(subcommand)]
    Model(model::Command),
    /// Put load on a server and report throughput and latencies.
    Bench(bench::Args),
    /// Show or check a router's configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a script that lets a shell complete commands and flags.
    Completions {
        /// The shell.
        shell: shell::Completing,
    },
    /// Write manual pages, one for each command.
    Man {
        /// The folder to write them to, such as ~/.local/share/man/man1.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Error::Output(error).report(),
    };
    let result = runtime.block_on(run(cli.command));
    // A thread that still reads standard input or converts a model must not keep an interrupted program.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Generate(args) => interruptible(generate::run(args)).await,
        Command::Chat(args) => chat::run(args).await,
        Command::Model(command) => interruptible(model::run(command)).await,
        Command::Bench(args) => interruptible(bench::run(args)).await,
        Command::Config(command) => config::run(command),
        Command::Completions { shell } => shell::completions(shell, Cli::command()),
        Command::Man { folder } => shell::manual(folder, Cli::command()),
    }
}

/// Ends `work` at the first interrupt. Dropping a call cancels it at the server.
async fn interruptible(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    }
}
