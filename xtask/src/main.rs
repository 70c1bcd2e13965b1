//! The project's own commands: `cargo xtask <command>`.
//!
//! The Makefile is the user's entrance; what would be more than a few lines there lives here. Nothing in the services depends
//! on this crate.

mod environment;
mod mlx;
mod process;
mod publish;

use clap::{Parser, Subcommand};

/// Set-up and chores of the kr-serve-mlx workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get MLX, compile mlx-c and tell cargo where both are (Linux; nothing to do on macOS).
    Mlx {
        /// Which build of MLX to link.
        #[arg(long, value_enum, default_value_t = mlx::Backend::Cpu)]
        backend: mlx::Backend,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Mlx { backend } => mlx::set_up(backend),
    }
}
