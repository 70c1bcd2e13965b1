//! The project's own commands: `cargo xtask <command>`.
//!
//! The Makefile is the user's entrance; what would be more than a few lines there lives here. Nothing in the services depends
//! on this crate.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod environment;
mod memory;
mod mlx;
mod process;
mod profile;
mod prometheus;
mod protos;
mod publish;
mod service;
mod testing;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What the tests run, relative to the workspace.
const TOOLS: &str = "integration-tests/requirements.txt";

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
    /// Install the tools and clients of the tests and print their folder.
    Tools,
    /// Lint the protos and compare them with the main branch.
    Protos,
    /// Fetch and import the demo model with the built release.
    DemoModel,
    /// Run every test once, under coverage where its tools can be had.
    Test,
    /// Run every test once, under coverage.
    Coverage,
    /// Answer one prompt with the built release, from start to clean stop.
    Demo {
        /// What to ask.
        #[arg(long)]
        prompt: String,
    },
    /// Become `kr-router` in the foreground, with the demo model unless the arguments say otherwise.
    Serve {
        /// Arguments of `kr-router`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Start a service on the demo model and run `kr bench` against it.
    KrBench {
        /// Arguments of `kr bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the built release, and what the router adds to a worker with fixed steps.
    Bench {
        /// Measure this instead.
        #[arg(long, value_enum)]
        scenario: Option<bench::Scenario>,
        #[command(flatten)]
        settings: bench::Settings,
    },
    /// Install the engines that `bench-peers` measures beside ours, compiling what has to be.
    InstallPeers,
    /// Measure the built release and its peers in turn.
    BenchPeers {
        #[command(flatten)]
        settings: bench::Settings,
    },
    /// Break steps of the demo model into named parts, and print a table.
    Profile {
        /// Models to profile in place of the demo model's two forms.
        folders: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Mlx { backend } => mlx::set_up(backend),
        Command::Tools => tools::install(Path::new(TOOLS)),
        Command::Protos => protos::check(Path::new(TOOLS)),
        Command::DemoModel => demo::pull_model(),
        Command::Test => testing::test(Path::new(TOOLS)),
        Command::Coverage => testing::cover(Path::new(TOOLS)),
        Command::Demo { prompt } => demo::run(&prompt),
        Command::Serve { arguments } => demo::serve(&arguments),
        Command::KrBench { arguments } => bench::passing_on(&arguments),
        Command::Bench {
            scenario: None,
            settings,
        } => bench::ours(&settings),
        Command::Bench {
            scenario: Some(scenario),
            settings,
        } => bench::scenario(scenario, &settings),
        Command::InstallPeers => bench::install(),
        Command::BenchPeers { settings } => bench::peers(&settings),
        Command::Profile { folders } => profile::run(&folders),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as Program;

    use super::*;

    /// What a `make` line of a guide would run, one list of arguments for each `cargo xtask`.
    fn xtasks(root: &Path, line: &str) -> Vec<Vec<String>> {
        let dry = line.replacen("make", "make -n", 1);
        let dry = process::output(Program::new("sh").args(["-c", &dry]).current_dir(root)).unwrap();
        let lines = dry.lines().filter(|line| line.contains("cargo xtask "));
        lines
            .map(|line| {
                let line = line.trim_start_matches("exec ").replace("cargo xtask ", "arguments ");
                let script = format!("arguments() {{ printf '%s\\n' xtask \"$@\"; }}; {line}");
                let printed = process::output(Program::new("sh").args(["-c", &script]).env("PROMPT", "x")).unwrap();
                printed.lines().map(str::to_owned).collect()
            })
            .collect()
    }

    #[test]
    fn what_the_guides_make_is_what_xtask_takes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut checked = 0;
        for guide in ["README.md", "docs/getting-started.md", "docs/benchmarks.md"] {
            let text = std::fs::read_to_string(root.join(guide)).unwrap();
            for line in text.lines().filter(|line| line.starts_with("make ")) {
                for arguments in xtasks(root, line) {
                    let parsed = Arguments::try_parse_from(&arguments);
                    assert!(
                        parsed.is_ok(),
                        "{guide}: {line}: {arguments:?}: {}",
                        parsed.unwrap_err()
                    );
                    checked += 1;
                }
            }
        }
        assert!(checked > 10, "{checked}");
    }
}
