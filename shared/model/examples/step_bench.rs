//! Decode speed of a model alone, without engine and gRPC: `step_bench DIR [mlx] [random] [batch …]` prints one line of JSON for each
//! batch size. `mlx` leaves our own kernels out; `random` samples with temperature and top-p in place of the most likely token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{SamplingParams, SequenceId, TokenId};
use kr_engine::model::{Input, Model, PlanEntry, Sample, SlotId, StepPlan};
use kr_model::{Kernels, LoadOptions, LoadedModel, load};

const PROMPT_TOKENS: u32 = 32;
const STEPS: u32 = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: step_bench DIR [mlx] [random] [batch …]")?,
    );
    let mut kernels = Kernels::Auto;
    let mut params = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let mut batches = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "mlx" => kernels = Kernels::MlxOnly,
            "random" => (params.temperature, params.top_p) = (0.8, 0.95),
            batch => batches.push(batch.parse()?),
        }
    }
    if batches.is_empty() {
        batches = vec![1, 8, 16, 32];
    }
    let options = LoadOptions {
        max_sequences: batches.iter().copied().max().unwrap_or(1),
        max_context_tokens: Some(1024),
        kernels,
        ..LoadOptions::default()
    };
    let started = Instant::now();
    let mut model = load(&dir, &options)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let params = Arc::new(params);
    for batch in batches {
        report(&mut model, batch, &params, load_ms)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn report(
    model: &mut LoadedModel,
    batch: u32,
    params: &Arc<SamplingParams>,
    load_ms: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let bucket = model
        .limits()
        .bucket_for(PROMPT_TOKENS + STEPS)
        .ok_or("context too short")?;
    let prompt = |slot: u32| {
        (0..PROMPT_TOKENS)
            .map(|index| (slot * 97 + index * 31) % 1000 + 3)
            .collect::<Vec<_>>()
    };
    let mut entries = Vec::new();
    for slot in 0..batch {
        model.acquire(SlotId(slot), bucket)?;
        entries.push(entry(slot, 0, prompt(slot), params));
    }
    let mut step = 0;
    let (mut tokens, prefill) = run(model, &mut step, entries)?;
    let mut times = Vec::new();
    for position in PROMPT_TOKENS..PROMPT_TOKENS + STEPS {
        let entries = (0..batch)
            .zip(&tokens)
            .map(|(slot, token)| entry(slot, position, vec![*token], params))
            .collect();
        let (next, elapsed) = run(model, &mut step, entries)?;
        tokens = next;
        times.push(elapsed);
    }
    for slot in 0..batch {
        model.release(SlotId(slot));
    }
    times.sort_unstable();
    let median = times[times.len() / 2].as_secs_f64();
    let mean = times.iter().sum::<Duration>().as_secs_f64() / f64::from(STEPS);
    let (best, worst) = (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64());
    let batch_size = f64::from(batch);
    println!(
        "{{\"batch\":{batch},\"decode_tokens_per_s\":{:.1},\"mean_tokens_per_s\":{:.1},\"step_ms\":{{\"min\":{:.2},\"p50\":{:.2},\"max\":{:.2}}},\"prefill_tokens_per_s\":{:.1},\"load_ms\":{load_ms:.1},\"fingerprint\":\"{}\"}}",
        batch_size / median,
        batch_size / mean,
        best * 1e3,
        median * 1e3,
        worst * 1e3,
        batch_size * f64::from(PROMPT_TOKENS) / prefill.as_secs_f64(),
        model.info().fingerprint,
    );
    Ok(())
}

fn entry(slot: u32, start: u32, ids: Vec<TokenId>, params: &Arc<SamplingParams>) -> PlanEntry {
    PlanEntry {
        sequence: SequenceId(u64::from(slot)),
        slot: SlotId(slot),
        start,
        input: Input::Tokens(ids),
        sample: Some(Sample {
            params: Arc::clone(params),
            position: 0,
            forbidden: Arc::from([]),
            history: None,
        }),
        score: None,
    }
}

fn run(
    model: &mut LoadedModel,
    step: &mut u64,
    entries: Vec<PlanEntry>,
) -> Result<(Vec<TokenId>, Duration), Box<dyn std::error::Error>> {
    *step += 1;
    let started = Instant::now();
    let ticket = model.submit(&StepPlan { step: *step, entries })?;
    let output = model.wait(ticket)?;
    let elapsed = started.elapsed();
    let tokens = output
        .sampled
        .into_iter()
        .map(|sampled| sampled.token)
        .collect::<Result<_, _>>()?;
    Ok((tokens, elapsed))
}
