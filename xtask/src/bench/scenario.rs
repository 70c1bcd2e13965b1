//! `make bench SCENARIO=…`: loads that a prefix cache, mixed lengths or little memory for KV make a difference to, each beside its
//! baseline from the same run.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::Settings;
use super::ours::{Bench, Model, Running, number};

/// KV of about 800 tokens of the demo model in float32, where eight sequences that grow from 160 to 320 are run at once.
const LITTLE_KV_BYTES: u64 = 800 * 2 * 30 * 3 * 64 * 4;

/// What to measure.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Scenario {
    /// 1,000 tokens that all prompts begin with: time to first token with the prefix cache and without.
    Prefix,
    /// Conversations of six turns: time to each turn's first token with the prefix cache and without.
    Chat,
    /// Prompts and answers of mixed lengths beside ones that are all as long as the longest.
    Mixed,
    /// A worker with memory for a few of its sequences beside one with enough.
    Pressure,
}

/// Measures a scenario, as often as there are rounds, and prints a line of JSON for each round.
///
/// # Errors
/// When a service cannot be started, a request fails, or the scenario did not come about.
pub(crate) fn run(scenario: Scenario, settings: &Settings) -> Result<()> {
    for round in 1..=settings.rounds {
        eprintln!("bench: {scenario:?}, round {round}/{}", settings.rounds);
        let line = match scenario {
            Scenario::Prefix => prefix(settings)?,
            Scenario::Chat => chat(settings)?,
            Scenario::Mixed => mixed(settings)?,
            Scenario::Pressure => pressure(settings)?,
        };
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

fn prefix(settings: &Settings) -> Result<Value> {
    let service = Running::start(&Model::Float32, settings.threads(), &[])?;
    let bench = Bench {
        concurrency: 1,
        requests: 8,
        prompt_tokens: 1032,
        max_tokens: 4,
    };
    let shared = ["--shared-prefix-tokens", "1000"];
    let misses = service.bench(&bench, &[&shared[..], &["--bypass-prefix-cache"]].concat())?;
    // Fills the cache.
    service.bench(&Bench { requests: 1, ..bench }, &shared)?;
    let hits = service.bench(&bench, &shared)?;
    service.stop()?;
    ensure!(
        hits["cached_tokens"].as_u64() > Some(0),
        "nothing was found in the prefix cache: {hits}"
    );
    let (miss, hit) = (number(&misses["ttft_ms"]["p50"])?, number(&hits["ttft_ms"]["p50"])?);
    Ok(json!({
        "scenario": "prefix", "requests": bench.requests, "prompt_tokens": bench.prompt_tokens, "shared_tokens": 1000,
        "ttft_miss_ms": miss, "ttft_hit_ms": hit, "ratio": miss / hit, "cached_tokens": hits["cached_tokens"],
    }))
}

fn chat(settings: &Settings) -> Result<Value> {
    let service = Running::start(&Model::Float32, settings.threads(), &[])?;
    let bench = Bench {
        concurrency: 1,
        requests: 3,
        prompt_tokens: 64,
        max_tokens: 32,
    };
    let turns = ["--turns", "6"];
    let without = service.bench(&bench, &[&turns[..], &["--bypass-prefix-cache"]].concat())?;
    let with = service.bench(&bench, &turns)?;
    service.stop()?;
    ensure!(
        with["cached_tokens"].as_u64() > Some(0),
        "nothing was found in the prefix cache: {with}"
    );
    Ok(
        json!({"scenario": "chat", "conversations": bench.requests, "without_cache": without["turns"], "with_cache": with["turns"]}),
    )
}

fn mixed(settings: &Settings) -> Result<Value> {
    let service = Running::start(&Model::Float32, settings.threads(), &[])?;
    let bench = Bench {
        concurrency: 16,
        requests: 32,
        prompt_tokens: 256,
        max_tokens: 64,
    };
    let alike = service.bench(&bench, &[])?;
    let mixed = service.bench(&bench, &["--mixed-lengths"])?;
    service.stop()?;
    Ok(json!({"scenario": "mixed", "alike": shown(&alike), "mixed": shown(&mixed)}))
}

fn pressure(settings: &Settings) -> Result<Value> {
    let bench = Bench {
        concurrency: 8,
        requests: 16,
        prompt_tokens: 160,
        max_tokens: 160,
    };
    let enough = Running::start(&Model::Float32, settings.threads(), &[])?;
    let baseline = enough.bench(&bench, &[])?;
    enough.stop()?;
    let budget = [("KR_ROUTER__WORKER__KV_BUDGET_BYTES", LITTLE_KV_BYTES.to_string())];
    let little = Running::start(&Model::Float32, settings.threads(), &budget)?;
    let measured = little.bench(&bench, &[])?;
    little.stop()?;
    ensure!(measured["errors"] == 0, "a request failed: {measured}");
    ensure!(
        measured["preemptions"].as_u64() > Some(0),
        "nothing was preempted: {measured}"
    );
    Ok(json!({
        "scenario": "pressure", "kv_budget_bytes": LITTLE_KV_BYTES, "little": shown(&measured), "enough": shown(&baseline),
    }))
}

/// The figures that say something about a load of many requests.
fn shown(figures: &Value) -> Value {
    let named = [
        "requests",
        "errors",
        "total_tokens_per_s",
        "decode_tokens_per_s",
        "ttft_ms",
        "tpot_ms",
        "e2e_ms",
        "preemptions",
    ];
    named
        .into_iter()
        .map(|name| (name.to_owned(), figures[name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
