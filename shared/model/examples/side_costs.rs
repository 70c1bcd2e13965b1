//! What comes beside a model's own computation: `side_costs DIR [threads]` prints one line of JSON for each way of sampling 32 rows, and for
//! copies of a 1,024-token prefix between a slot and the block store.
//!
//! Sampling is the time of `Model::wait`, which does nothing else where our own kernels run and no step is queued ahead.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use kr_contract::{SamplingParams, SequenceId, TokenId};
use kr_engine::model::{BlockId, CopyCost, Input, Model, PlanEntry, Sample, SlotId, StepPlan, TokenHistory};
use kr_model::{LoadOptions, LoadedModel, load};

const ROWS: u32 = 32;
const STEPS: u32 = 12;
const PREFIX_TOKENS: u32 = 1024;
const CHUNK: u32 = 512;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: side_costs DIR [threads]")?);
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let options = LoadOptions {
        max_context_tokens: Some(2 * PREFIX_TOKENS),
        kv_budget_bytes: Some(2 << 30),
        pipeline_depth: Some(0),
        threads,
        ..LoadOptions::default()
    };
    let mut model = load(&dir, &options)?;
    let mut step = 0;
    copies(&mut model, &mut step)?;
    for slot in 0..ROWS {
        let bucket = model.limits().bucket_for(64).ok_or("context too short")?;
        model.acquire(SlotId(slot), bucket)?;
    }
    let mut position = 0;
    for (name, params) in settings() {
        let mut times = Vec::new();
        for _ in 0..STEPS {
            times.push(sample(&mut model, &mut step, position, &params)?);
            position = (position + 1) % 64;
        }
        times.sort_by(f64::total_cmp);
        let (least, median) = (times[0], times[times.len() / 2]);
        print(&format!(
            "{{\"sampling\":\"{name}\",\"rows\":{ROWS},\"wait_ms\":{{\"min\":{least:.3},\"p50\":{median:.3}}},\"row_us\":{:.1}}}",
            least * 1e3 / f64::from(ROWS)
        ));
    }
    Ok(())
}

fn settings() -> Vec<(&'static str, SamplingParams)> {
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        params
    };
    vec![
        ("greedy", with(|params| params.temperature = 0.0)),
        ("temperature", with(|params| params.temperature = 0.8)),
        ("top_k 50", with(|params| params.top_k = 50)),
        ("top_p 0.95", with(|params| params.top_p = 0.95)),
        (
            "top_p 0.95, temperature 100",
            with(|params| (params.temperature, params.top_p) = (100.0, 0.95)),
        ),
        ("min_p 0.05", with(|params| params.min_p = 0.05)),
        (
            "all filters and penalties",
            with(|params| {
                (params.temperature, params.top_k, params.top_p, params.min_p) = (0.8, 50, 0.9, 0.02);
                (params.repetition_penalty, params.frequency_penalty) = (1.1, 0.2);
            }),
        ),
        (
            "temperature, 20 log probabilities",
            with(|params| params.logprobs = Some(20)),
        ),
    ]
}

/// Milliseconds of choosing one token for each row.
fn sample(model: &mut LoadedModel, step: &mut u64, position: u32, params: &SamplingParams) -> Outcome<f64> {
    let mut history = TokenHistory::default();
    (0..500).for_each(|id| history.add_generated(id * 7));
    let history = Arc::new(history);
    let entry = |row: u32| {
        let params = SamplingParams {
            seed: u64::from(row),
            ..params.clone()
        };
        let sample = Sample {
            history: (params.repetition_penalty > 1.0).then(|| Arc::clone(&history)),
            params: Arc::new(params),
            position,
            forbidden: Arc::from([]),
        };
        entry(row, position, vec![row * 31 + position + 3], Some(sample))
    };
    let plan = plan(step, (0..ROWS).map(entry).collect());
    let ticket = model.submit(&plan)?;
    let started = Instant::now();
    model.wait(ticket)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn copies(model: &mut LoadedModel, step: &mut u64) -> Outcome<()> {
    let bucket = model
        .limits()
        .bucket_for(PREFIX_TOKENS + 1)
        .ok_or("context too short")?;
    model.acquire(SlotId(0), bucket)?;
    model.acquire(SlotId(1), bucket)?;
    for start in (0..PREFIX_TOKENS).step_by(CHUNK as usize) {
        let ids = (start..start + CHUNK).map(|index| index % 1000 + 3).collect();
        let plan = plan(step, vec![entry(0, start, ids, None)]);
        let ticket = model.submit(&plan)?;
        model.wait(ticket)?;
    }
    let block_tokens = model.limits().block_tokens;
    let blocks: Vec<_> = (0..PREFIX_TOKENS / block_tokens).map(BlockId).collect();
    for round in ["first", "again", "again"] {
        let mut out = CopyCost::default();
        for (block, start) in blocks.iter().zip((0..).step_by(block_tokens as usize)) {
            let cost = model.copy_out(SlotId(0), start, *block)?;
            out.bytes += cost.bytes;
            out.elapsed += cost.elapsed;
        }
        report("copy_out", round, out);
        report("copy_in", round, model.copy_in(SlotId(1), &blocks)?);
    }
    model.release(SlotId(0));
    model.release(SlotId(1));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "reported with few digits")]
fn report(copy: &str, round: &str, cost: CopyCost) {
    let seconds = cost.elapsed.as_secs_f64();
    print(&format!(
        "{{\"copy\":\"{copy}\",\"round\":\"{round}\",\"tokens\":{PREFIX_TOKENS},\"bytes\":{},\"ms\":{:.2},\"gb_per_s\":{:.2}}}",
        cost.bytes,
        seconds * 1e3,
        cost.bytes as f64 / seconds / 1e9
    ));
}

fn plan(step: &mut u64, entries: Vec<PlanEntry>) -> StepPlan {
    *step += 1;
    StepPlan { step: *step, entries }
}

fn entry(slot: u32, start: u32, ids: Vec<TokenId>, sample: Option<Sample>) -> PlanEntry {
    PlanEntry {
        sequence: SequenceId(u64::from(slot)),
        slot: SlotId(slot),
        start,
        input: Input::Tokens(ids),
        sample,
        score: None,
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn print(line: &str) {
    println!("{line}");
}
