//! Our throughput beside mlx-lm's, on the same weights and the same machine, in turn.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{demo, environment, process, tools};

const REQUIREMENTS: &str = "xtask/peers/requirements.txt";
const SCRIPT: &str = "xtask/peers/batch_generator.py";
const BATCHES: [u32; 4] = [1, 8, 16, 32];
const PROMPT_TOKENS: u32 = 32;
const MAX_TOKENS: u32 = 48;

/// What every engine is asked to do: `requests` prompts, `batch` of them at a time.
struct Load {
    batch: u32,
    requests: u32,
}

/// Measures both engines in alternation and prints a Markdown table: generated tokens per second of the whole run, prompts
/// included, the median of the rounds.
///
/// # Errors
/// When an engine cannot be installed, started or measured.
pub(crate) fn compare(rounds: usize) -> Result<()> {
    let python = tools::environment_of(Path::new(REQUIREMENTS))?.join("bin/python");
    let mut out = std::io::stdout();
    writeln!(out, "| batch | mlx-lm BatchGenerator | kr | ratio |\n|---|---|---|---|")?;
    for batch in BATCHES {
        let load = Load {
            batch,
            requests: batch * 2,
        };
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            eprintln!("peers: batch {batch}, round {round}/{rounds}");
            theirs.push(mlx_lm(&python, &load)?);
            ours.push(kr(&load)?);
        }
        let (theirs, ours) = (median(theirs), median(ours));
        writeln!(out, "| {batch} | {theirs:.1} | {ours:.1} | {:.2} |", ours / theirs)?;
    }
    Ok(())
}

fn mlx_lm(python: &Path, load: &Load) -> Result<f64> {
    let mut command = Command::new(python);
    command
        .arg(environment::workspace_root()?.join(SCRIPT))
        .arg("--model")
        .arg(demo::model_folder()?);
    command.args([
        "--batch",
        &load.batch.to_string(),
        "--requests",
        &load.requests.to_string(),
    ]);
    command.args([
        "--prompt-tokens",
        &PROMPT_TOKENS.to_string(),
        "--max-tokens",
        &MAX_TOKENS.to_string(),
    ]);
    if cfg!(target_os = "linux") {
        // The wheel's own BLAS would make it ten times slower: the peer gets the one that we link.
        command.env("LD_PRELOAD", "libopenblas.so.0");
    }
    generated_per_second(&process::output(&mut command)?)
}

/// A fresh service for every measurement, as the peer gets a fresh process; one unmeasured request per slot warms it up.
fn kr(load: &Load) -> Result<f64> {
    let service = demo::start("peers")?;
    let bench = |requests: u32, max_tokens: u32| {
        let mut command = demo::kr("bench", &service)?;
        command.args(["--json", "--ignore-eos", "--concurrency", &load.batch.to_string()]);
        command.args([
            "--requests",
            &requests.to_string(),
            "--prompt-tokens",
            &PROMPT_TOKENS.to_string(),
        ]);
        command.args(["--max-tokens", &max_tokens.to_string()]);
        // Other prompts in the warm-up, or the measured ones would be found in the prefix cache.
        command.args(["--seed", &max_tokens.to_string()]);
        process::output(&mut command)
    };
    bench(load.batch, 4)?;
    let measured = generated_per_second(&bench(load.requests, MAX_TOKENS)?)?;
    service.stop()?;
    Ok(measured)
}

fn generated_per_second(json: &str) -> Result<f64> {
    let line = json.lines().last().unwrap_or_default();
    let figures: serde_json::Value = serde_json::from_str(line).with_context(|| format!("no figures in {json:?}"))?;
    figures["decode_tokens_per_s"]
        .as_f64()
        .with_context(|| format!("no rate in {json:?}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
