//! How well models predict a fixed text, token by token: `perplexity DENSE_DIR QUANTISED_DIR [IDS]` prints one line of JSON for each
//! way to compute: dense weights, quantised ones with activations rounded to int8, and quantised ones with float32 activations. Both
//! models must have the tokenizer that made the ids: SmolLM2's for the fixture, `fixtures/prose`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use kr_contract::{SequenceId, TokenId};
use kr_engine::model::{Input, Model, PlanEntry, Score, SlotId, StepPlan};
use kr_model::{Activations, LoadOptions, load};

/// Tokens of one step.
const CHUNK: usize = 256;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let usage = "usage: perplexity DENSE_DIR QUANTISED_DIR [IDS]";
    let dense = arguments.next().ok_or(usage)?;
    let quantised = arguments.next().ok_or(usage)?;
    let ids = arguments
        .next()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/prose/smollm2-ids.json"));
    let ids: Vec<TokenId> = serde_json::from_slice(&std::fs::read(ids)?)?;
    report("dense", &dense, Activations::Float32, &ids)?;
    report("quantised", &quantised, Activations::Int8, &ids)?;
    report("quantised", &quantised, Activations::Float32, &ids)
}

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn report(weights: &str, dir: &Path, activations: Activations, ids: &[TokenId]) -> Result<(), AnyError> {
    let options = LoadOptions {
        max_sequences: 1,
        max_context_tokens: Some(u32::try_from(ids.len())?),
        kv_budget_bytes: Some(1 << 30),
        activations,
        ..LoadOptions::default()
    };
    let mut model = load(dir, &options)?;
    let started = Instant::now();
    let losses = losses(&mut model, ids)?;
    let seconds = started.elapsed().as_secs_f64();
    let count = losses.len() as f64;
    let loss = losses.iter().sum::<f64>() / count;
    println!(
        "{{\"weights\":\"{weights}\",\"activations\":\"{}\",\"tokens\":{},\"loss\":{loss:.5},\"perplexity\":{:.4},\"tokens_per_s\":{:.1},\"fingerprint\":\"{}\"}}",
        activations.name(),
        losses.len(),
        loss.exp(),
        count / seconds,
        model.info().fingerprint,
    );
    Ok(())
}

/// The negative log probability of every token but the first.
fn losses(model: &mut impl Model, ids: &[TokenId]) -> Result<Vec<f64>, AnyError> {
    let slot = SlotId(0);
    let bucket = model
        .limits()
        .bucket_for(u32::try_from(ids.len())?)
        .ok_or("the text is too long")?;
    model.acquire(slot, bucket)?;
    let mut losses = Vec::new();
    for (index, chunk) in ids.chunks(CHUNK).enumerate() {
        let start = index * CHUNK;
        let targets = &ids[start + 1..ids.len().min(start + CHUNK + 1)];
        let entry = PlanEntry {
            sequence: SequenceId(0),
            slot,
            start: u32::try_from(start)?,
            input: Input::Tokens(chunk.to_vec()),
            sample: None,
            score: Some(Score {
                top: 0,
                targets: targets.to_vec(),
            }),
        };
        let plan = StepPlan {
            step: index as u64 + 1,
            entries: vec![entry],
        };
        let ticket = model.submit(&plan)?;
        let output = model.wait(ticket)?;
        for scored in output.scored {
            losses.extend(scored.logprobs.iter().map(|logprobs| -f64::from(logprobs.chosen)));
        }
    }
    model.release(slot);
    Ok(losses)
}
