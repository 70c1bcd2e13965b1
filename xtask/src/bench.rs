//! `make bench` and `make bench-peers`: engines under one load, in turn, as JSON lines and a Markdown table.

mod answers;
mod figures;
mod load;
mod ours;
mod peer;
mod router;
mod scenario;

use std::io::Write;

use anyhow::{Result, bail};
use clap::ValueEnum;

pub(crate) use ours::passing_on;
pub(crate) use peer::install;
pub(crate) use scenario::{Scenario, run as scenario};

use figures::{Measurement, Row};
use load::Load;
use ours::Model;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Our whole service on float32 weights.
    KrFloat32,
    /// Our whole service on 4-bit weights.
    #[value(name = "kr-4bit")]
    Kr4Bit,
    /// mlx-lm's BatchGenerator on float32 weights.
    MlxLm,
    /// llama.cpp on the GGUF file that the other weights were made of.
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

impl Engine {
    const OURS: [Self; 2] = [Self::KrFloat32, Self::Kr4Bit];
    const ALL: [Self; 4] = [Self::KrFloat32, Self::Kr4Bit, Self::MlxLm, Self::LlamaCpp];

    /// What JSON and table call it.
    fn name(self) -> &'static str {
        match self {
            Self::KrFloat32 => "kr-float32",
            Self::Kr4Bit => "kr-4bit",
            Self::MlxLm => "mlx-lm",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    fn weights(self) -> &'static str {
        match self {
            Self::KrFloat32 | Self::MlxLm => "float32",
            Self::Kr4Bit => "4-bit",
            Self::LlamaCpp => "4-bit (Q4_1)",
        }
    }
}

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// How often each engine is measured, in turn with the others.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) rounds: u8,
    /// How many sequences at once, each a line of the result.
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) concurrency: Vec<u32>,
    /// Which engines; all that the command knows where none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) engines: Vec<Engine>,
    /// Tokens generated for each prompt.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=512))]
    pub(crate) max_tokens: u32,
    /// Threads of each engine; the machine's cores where none is named.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

impl Settings {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(cores)
    }

    /// The engines to measure: those named, else `all`.
    fn engines(&self, all: &[Engine]) -> Vec<Engine> {
        match self.engines.as_slice() {
            [] => all.to_vec(),
            named => named.to_vec(),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Measures our engines beside their peers.
///
/// # Errors
/// When an engine cannot be installed, started or measured, or gives answers that are none.
pub(crate) fn peers(settings: &Settings) -> Result<()> {
    measure(settings, &Engine::ALL)
}

/// Measures our engines, and what the router adds to a worker of fixed steps.
///
/// # Errors
/// As [`peers`].
pub(crate) fn ours(settings: &Settings) -> Result<()> {
    if let Some(peer) = settings.engines.iter().find(|engine| !Engine::OURS.contains(engine)) {
        bail!(
            "`make bench` measures ours alone; for {} run `make bench-peers`",
            peer.name()
        );
    }
    measure(settings, &Engine::OURS)?;
    router::measure()
}

fn measure(settings: &Settings, all: &[Engine]) -> Result<()> {
    let engines = settings.engines(all);
    for engine in &engines {
        peer::prepare(*engine)?;
    }
    let load = Load::make(settings)?;
    let mut measured: Vec<(Engine, Vec<Measurement>)> = engines.iter().map(|engine| (*engine, Vec::new())).collect();
    for round in 1..=settings.rounds {
        for (engine, rounds) in &mut measured {
            eprintln!("bench: round {round}/{}, {}", settings.rounds, engine.name());
            let measurement = match engine {
                Engine::KrFloat32 => ours::measure(&Model::Float32, &load)?,
                Engine::Kr4Bit => ours::measure(&Model::Quantized, &load)?,
                Engine::MlxLm | Engine::LlamaCpp => peer::measure(*engine, &load)?,
            };
            answers::check(engine.name(), &measurement, &load)?;
            rounds.push(measurement);
        }
    }
    let mut rows = Vec::new();
    for (engine, rounds) in &measured {
        for concurrency in &settings.concurrency {
            rows.push(Row::of(*engine, *concurrency, rounds)?);
        }
    }
    let mut out = std::io::stdout();
    for row in &rows {
        writeln!(out, "{}", row.json())?;
    }
    eprint!("\n{}", figures::table(&rows));
    Ok(())
}
