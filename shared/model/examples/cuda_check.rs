//! Compares our kernels on a GPU with MLX's operations: `cuda_check DIR` runs sequences at mixed positions, the same tokens through
//! both, and prints one line of JSON with the largest difference of a log probability.

use std::path::PathBuf;
use std::sync::Arc;

use kr_contract::{SamplingParams, SequenceId, TokenId};
use kr_engine::model::{Input, Model, PlanEntry, Sample, SlotId, StepPlan};
use kr_model::{Kernels, LoadOptions, LoadedModel, load};

const PROMPTS: [u32; 6] = [3, 17, 64, 100, 200, 31];
const STEPS: u32 = 24;

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: cuda_check DIR")?);
    let (tokens, reference) = run(&dir, Kernels::MlxOnly, None)?;
    let (_, ours) = run(&dir, Kernels::Auto, Some(&tokens))?;
    let mut largest = 0f32;
    let mut compared = 0;
    for (left, right) in reference.iter().zip(&ours) {
        for (id, logprob) in left {
            if let Some((_, other)) = right.iter().find(|(other, _)| other == id) {
                largest = largest.max((logprob - other).abs());
                compared += 1;
            }
        }
    }
    println!(
        "{{\"compared\":{compared},\"of\":{},\"largest_difference\":{largest}}}",
        reference.len() * 5
    );
    Ok(())
}

type Top = Vec<(TokenId, f32)>;

fn run(
    dir: &std::path::Path,
    kernels: Kernels,
    forced: Option<&[TokenId]>,
) -> Result<(Vec<TokenId>, Vec<Top>), Box<dyn std::error::Error>> {
    let options = LoadOptions {
        max_sequences: 8,
        max_context_tokens: Some(512),
        pipeline_depth: Some(0),
        kernels,
        ..LoadOptions::default()
    };
    let mut model = load(dir, &options)?;
    let (mut tokens, mut tops) = (Vec::new(), Vec::new());
    let mut last = [0; PROMPTS.len()];
    let mut step = 0;
    // One sequence starts in each of the first steps, while those before it decode.
    for time in 0..STEPS {
        let mut entries = Vec::new();
        for (slot, prompt) in (0..).zip(PROMPTS) {
            if slot > time {
                continue;
            }
            let age = time - slot;
            if age == 0 {
                let bucket = model.limits().bucket_for(prompt + STEPS).ok_or("context")?;
                model.acquire(SlotId(slot), bucket)?;
                entries.push(entry(
                    slot,
                    0,
                    (0..prompt).map(|i| (slot * 97 + i * 31) % 1000 + 3).collect(),
                ));
            } else {
                entries.push(entry(slot, prompt + age - 1, vec![last[slot as usize]]));
            }
        }
        let order: Vec<u32> = entries.iter().map(|entry| entry.slot.0).collect();
        for (slot, sampled) in order.into_iter().zip(one(&mut model, &mut step, entries)?) {
            let chosen = forced.map_or(sampled.0, |forced| forced[tokens.len()]);
            tokens.push(chosen);
            tops.push(sampled.1);
            last[slot as usize] = chosen;
        }
    }
    Ok((tokens, tops))
}

fn one(
    model: &mut LoadedModel,
    step: &mut u64,
    entries: Vec<PlanEntry>,
) -> Result<Vec<(TokenId, Top)>, Box<dyn std::error::Error>> {
    *step += 1;
    let ticket = model.submit(&StepPlan { step: *step, entries })?;
    let output = model.wait(ticket)?;
    output
        .sampled
        .into_iter()
        .map(|s| Ok((s.token?, s.logprobs.map(|l| l.top).unwrap_or_default())))
        .collect()
}

fn entry(slot: u32, start: u32, ids: Vec<TokenId>) -> PlanEntry {
    let params = SamplingParams {
        temperature: 0.0,
        logprobs: Some(5),
        ..SamplingParams::default()
    };
    PlanEntry {
        sequence: SequenceId(u64::from(slot)),
        slot: SlotId(slot),
        start,
        input: Input::Tokens(ids),
        sample: Some(Sample {
            params: Arc::new(params),
            position: 0,
            forbidden: Arc::from([]),
            history: None,
        }),
        score: None,
    }
}
