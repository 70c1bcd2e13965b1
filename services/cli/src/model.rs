//! `kr model`: what is on disk and what a server serves.

mod import;
mod inspect;
mod list;
mod pull;

pub(crate) use pull::HubError;

use crate::error::Error;

/// Get, import and list models.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Convert a GGUF file into a model folder that kr-router serves.
    Import(import::Args),
    /// Show what a GGUF file or a model folder holds: every tensor, how exact an import is, where it comes from.
    Inspect(inspect::Args),
    /// Fetch a model into the cache, from the hub or the demo model.
    Pull(pull::Args),
    /// List the models of the cache, or with --server those of a running server.
    List(list::Args),
}

/// Runs the command.
///
/// # Errors
/// As the command says.
pub(crate) async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Import(args) => import::run(args).await,
        Command::Inspect(args) => inspect::run(args).await,
        Command::Pull(args) => pull::run(args).await,
        Command::List(args) => list::run(args).await,
    }
}
