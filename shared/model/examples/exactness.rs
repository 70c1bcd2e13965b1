//! What the exactness contract is worth: `exactness [mlx] DIR…` runs each model through many schedules, teacher-forced on the same ids,
//! and prints one line of JSON for each schedule and number of threads, compared with every sequence alone on one thread.
//!
//! A line has the tokens compared, the most that the log probability of any of the reference's 32 most likely tokens differs (exactly 0
//! in the invariant class), the positions at which the most likely token is another one, and for each of these the reference's gap
//! between the two. More gap than twice the difference would be a bug, and ends the program with a failure. `mlx` leaves our own
//! kernels out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kr_contract::{Exactness, SequenceId, TokenId};
use kr_engine::model::{BlockId, Input, Logprobs, Model, PlanEntry, Score, SlotId, StepPlan};
use kr_model::{Kernels, LoadOptions, LoadedModel, load};

const SEQUENCES: usize = 32;
const PROMPT: usize = 24;
const LENGTH: usize = 36;
const BLOCK_TOKENS: usize = 8;
/// Tokens of a prefix hit, whole blocks.
const PREFIX: usize = 16;
const TOP: u32 = 32;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
/// By sequence, then by position; `None` where a schedule does not compute it.
type Found = Vec<Vec<Option<Logprobs>>>;

fn main() -> Outcome<ExitCode> {
    let mut kernels = Kernels::Auto;
    let mut dirs = Vec::new();
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("mlx") => kernels = Kernels::MlxOnly,
            _ => dirs.push(PathBuf::from(argument)),
        }
    }
    if dirs.is_empty() {
        return Err("usage: exactness [mlx] DIR…".into());
    }
    let mut explained = true;
    for dir in dirs {
        explained &= compare(&dir, kernels)?;
    }
    Ok(if explained {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn compare(dir: &Path, kernels: Kernels) -> Outcome<bool> {
    let mut reference = None;
    let mut explained = true;
    for threads in [1, 2] {
        let mut bench = Bench::new(dir, kernels, threads)?;
        for schedule in schedules() {
            let found = bench.run(&schedule)?;
            // The first schedule of all: everybody alone on one thread.
            let Some(reference) = &reference else {
                reference = Some(found);
                continue;
            };
            let difference = Difference::between(reference, &found);
            explained &= difference.is_explained(bench.model.info().fingerprint.class);
            report(dir, &bench, &schedule, &difference);
        }
    }
    Ok(explained)
}

/// How sequences are run.
#[derive(Debug)]
struct Schedule {
    name: String,
    /// Which sequences, and in which order.
    sequences: Vec<usize>,
    /// Sequences in a step.
    batch: usize,
    /// Where prompts are cut.
    cuts: Vec<usize>,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// The first tokens come from the block store.
    PrefixHit,
    /// Gives its slot up in the middle of the answer, and recomputes prompt and answer in one chunk.
    Preempted,
}

fn schedules() -> Vec<Schedule> {
    let plain = |name: &str, count: usize, batch: usize| Schedule {
        name: name.to_owned(),
        sequences: (0..count).collect(),
        batch,
        cuts: Vec::new(),
        kind: Kind::Plain,
    };
    let mut all = vec![plain("alone", SEQUENCES, 1)];
    all.extend([12, 16, 31, 32].map(|batch| plain(&format!("batch {batch}"), batch, batch)));
    all.push(Schedule {
        sequences: (0..SEQUENCES).map(|index| (index * 13 + 5) % SEQUENCES).collect(),
        ..plain("batch 32, rows permuted", SEQUENCES, SEQUENCES)
    });
    let everywhere: Vec<usize> = (1..PROMPT).collect();
    for (name, cuts) in [
        ("at 1, 7 and 16", vec![1, 7, 16]),
        ("at 19", vec![19]),
        ("everywhere", everywhere),
    ] {
        all.push(Schedule {
            cuts,
            ..plain(&format!("batch 16, prompts cut {name}"), 16, 16)
        });
    }
    for (name, kind) in [("prefix hit", Kind::PrefixHit), ("preempted", Kind::Preempted)] {
        all.push(Schedule {
            kind,
            ..plain(&format!("batch 12, {name}"), 12, 12)
        });
    }
    all
}

/// A loaded model and what it is run on.
struct Bench {
    model: LoadedModel,
    kernels: Kernels,
    threads: u32,
    ids: Vec<Vec<TokenId>>,
    step: u64,
}

impl Bench {
    fn new(dir: &Path, kernels: Kernels, threads: u32) -> Outcome<Self> {
        let options = LoadOptions {
            kernels,
            threads: Some(threads),
            max_sequences: 2 * u32::try_from(SEQUENCES)?,
            max_context_tokens: Some(256),
            kv_budget_bytes: Some(2 << 30),
            block_tokens: u32::try_from(BLOCK_TOKENS)?,
            store_blocks: Some(u32::try_from(SEQUENCES * PREFIX / BLOCK_TOKENS)?),
            pipeline_depth: Some(0),
            ..LoadOptions::default()
        };
        let model = load(dir, &options)?;
        let vocabulary = u64::from(model.info().vocab_size);
        // A linear congruential generator; any ids will do.
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            TokenId::try_from((state >> 33) % vocabulary)
        };
        let ids = (0..SEQUENCES)
            .map(|_| (0..=LENGTH).map(|_| next()).collect::<Result<_, _>>())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            model,
            kernels,
            threads,
            ids,
            step: 0,
        })
    }

    fn run(&mut self, schedule: &Schedule) -> Outcome<Found> {
        let mut found = vec![vec![None; LENGTH]; SEQUENCES];
        for batch in schedule.sequences.chunks(schedule.batch) {
            let mut start = 0;
            for (slot, _) in (0..).zip(batch) {
                self.acquire(slot)?;
            }
            if schedule.kind == Kind::PrefixHit {
                self.prefix_hits(batch)?;
                start = PREFIX;
            }
            let cuts = schedule.cuts.iter().copied().chain([PROMPT]);
            for end in cuts.chain(PROMPT + 1..=LENGTH) {
                if schedule.kind == Kind::Preempted && start == PROMPT + 4 {
                    for (slot, _) in (0..).zip(batch) {
                        self.model.release(SlotId(slot));
                        self.acquire(slot)?;
                    }
                    start = 0;
                }
                self.advance(batch, start, end, &mut found)?;
                start = end;
            }
            for (slot, _) in (0..).zip(batch) {
                self.model.release(SlotId(slot));
            }
        }
        Ok(found)
    }

    fn acquire(&mut self, slot: u32) -> Outcome<()> {
        let bucket = self
            .model
            .limits()
            .bucket_for(u32::try_from(LENGTH)?)
            .ok_or("context too short")?;
        Ok(self.model.acquire(SlotId(slot), bucket)?)
    }

    /// One step: positions `start..end` of each sequence.
    fn advance(&mut self, batch: &[usize], start: usize, end: usize, found: &mut Found) -> Outcome<()> {
        let position = u32::try_from(start)?;
        let entries = (0..).zip(batch).map(|(slot, sequence)| {
            let ids = &self.ids[*sequence];
            PlanEntry {
                sequence: SequenceId(*sequence as u64),
                slot: SlotId(slot),
                start: position,
                input: Input::Tokens(ids[start..end].to_vec()),
                sample: None,
                score: Some(Score {
                    top: TOP,
                    targets: ids[start + 1..=end].to_vec(),
                }),
            }
        });
        self.step += 1;
        let plan = StepPlan {
            step: self.step,
            entries: entries.collect(),
        };
        let ticket = self.model.submit(&plan)?;
        for (scored, sequence) in self.model.wait(ticket)?.scored.into_iter().zip(batch) {
            for (position, logprobs) in (start..).zip(scored.logprobs) {
                found[*sequence][position] = Some(logprobs);
            }
        }
        Ok(())
    }

    /// Computes every sequence's prefix elsewhere, saves it, and copies it to the start of the sequence's slot.
    fn prefix_hits(&mut self, batch: &[usize]) -> Outcome<()> {
        let other = u32::try_from(SEQUENCES)?;
        let blocks_each = u32::try_from(PREFIX / BLOCK_TOKENS)?;
        for (slot, sequence) in (0..).zip(batch) {
            self.acquire(other)?;
            self.step += 1;
            let entry = PlanEntry {
                sequence: SequenceId(u64::MAX),
                slot: SlotId(other),
                start: 0,
                input: Input::Tokens(self.ids[*sequence][..PREFIX].to_vec()),
                sample: None,
                score: None,
            };
            let plan = StepPlan {
                step: self.step,
                entries: vec![entry],
            };
            let ticket = self.model.submit(&plan)?;
            self.model.wait(ticket)?;
            let blocks: Vec<_> = (0..blocks_each)
                .map(|index| BlockId(slot * blocks_each + index))
                .collect();
            for (block, start) in blocks.iter().zip((0..).step_by(BLOCK_TOKENS)) {
                self.model.copy_out(SlotId(other), start, *block)?;
            }
            self.model.release(SlotId(other));
            self.model.copy_in(SlotId(slot), &blocks)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Difference {
    tokens: usize,
    /// Of log probabilities.
    largest: f32,
    /// The reference's gap between its most likely token and the other schedule's.
    gaps: Vec<f32>,
}

impl Difference {
    fn between(reference: &Found, found: &Found) -> Self {
        let mut difference = Self::default();
        for (reference, found) in reference.iter().flatten().zip(found.iter().flatten()) {
            if let (Some(reference), Some(found)) = (reference, found) {
                difference.add(reference, found);
            }
        }
        difference
    }

    fn add(&mut self, reference: &Logprobs, found: &Logprobs) {
        self.tokens += 1;
        let of = |logprobs: &Logprobs, id| {
            logprobs
                .top
                .iter()
                .find(|(other, _)| *other == id)
                .map(|(_, value)| *value)
        };
        let mut differences = vec![(reference.chosen - found.chosen).abs()];
        differences.extend(
            reference
                .top
                .iter()
                .filter_map(|(id, value)| Some((value - of(found, *id)?).abs())),
        );
        for difference in differences {
            // NaN counts as the largest of all.
            if difference > self.largest || difference.is_nan() {
                self.largest = difference;
            }
        }
        if let (Some((best, most)), Some((other, _))) = (reference.top.first(), found.top.first())
            && best != other
        {
            self.gaps
                .push(of(reference, *other).map_or(f32::INFINITY, |value| most - value));
        }
    }

    fn is_explained(&self, class: Exactness) -> bool {
        match class {
            Exactness::Invariant => self.largest == 0.0 && self.gaps.is_empty(),
            Exactness::Close => self.gaps.iter().all(|gap| *gap <= 2.0 * self.largest),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command line program")]
fn report(dir: &Path, bench: &Bench, schedule: &Schedule, difference: &Difference) {
    let name = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let gaps: Vec<String> = difference.gaps.iter().map(|gap| format!("{gap:e}")).collect();
    println!(
        "{{\"model\":\"{name}\",\"kernels\":\"{:?}\",\"fingerprint\":\"{}\",\"threads\":{},\"schedule\":\"{}\",\"tokens\":{},\"largest_difference\":{:e},\"divergences\":{},\"gaps\":[{}]}}",
        bench.kernels,
        bench.model.info().fingerprint,
        bench.threads,
        schedule.name,
        difference.tokens,
        difference.largest,
        difference.gaps.len(),
        gaps.join(",")
    );
}
