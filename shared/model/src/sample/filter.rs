//! Which tokens `top_k`, `top_p` and `min_p` keep, without sorting a vocabulary.

use kr_contract::SamplingParams;

/// Values whose largest stands for all of them.
const BLOCK: usize = 64;
/// Where the bits begin that tell a weight's bucket: exponent and four bits at first, then the eleven below them.
const BUCKET_SHIFTS: [u32; 2] = [19, 8];
const BUCKETS: usize = 1 << 11;

/// Memory that is used again for every row.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    maxima: Vec<f32>,
    candidates: Vec<f32>,
    masses: Vec<f64>,
}

/// Returns the weight of the least likely token that is kept. `weights`: 1 for the most likely token.
pub(super) fn least_kept(weights: &[f32], params: &SamplingParams, scratch: &mut Scratch) -> f32 {
    let top_k = params.top_k as usize;
    let limited = top_k > 0 && top_k < weights.len();
    let kth = match limited {
        true => kth(weights, top_k, scratch),
        false => 0.0,
    };
    let nucleus = match params.top_p < 1.0 {
        true if limited => nucleus_of_candidates(kth, params.top_p, scratch),
        true => nucleus(weights, params, scratch),
        false => 0.0,
    };
    // Rounding must never filter out the most likely token.
    kth.max(nucleus).max(params.min_p).min(1.0)
}

/// The `top_k`-th largest weight. Leaves everything at least as large among the candidates.
fn kth(weights: &[f32], top_k: usize, scratch: &mut Scratch) -> f32 {
    let least = reached(weights, top_k, &mut scratch.maxima);
    collect(weights, least, &mut scratch.candidates);
    nth_largest(&mut scratch.candidates, top_k)
}

/// A value that at least `count` of `values` reach: each block's largest is one of them. Negative infinity where there are too few
/// blocks to tell.
pub(super) fn reached(values: &[f32], count: usize, maxima: &mut Vec<f32>) -> f32 {
    maxima.clear();
    maxima.extend(values.chunks(BLOCK).map(maximum));
    match (1..=maxima.len()).contains(&count) {
        true => nth_largest(maxima, count),
        false => f32::NEG_INFINITY,
    }
}

/// `count`: 1 for the largest. There must be as many values.
fn nth_largest(values: &mut [f32], count: usize) -> f32 {
    *values.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

fn collect(weights: &[f32], least: f32, candidates: &mut Vec<f32>) {
    candidates.clear();
    candidates.extend(weights.iter().filter(|weight| **weight >= least));
}

/// The weight of the last token of the smallest set of most likely ones that holds `top_p` of the candidates from `kth` on.
fn nucleus_of_candidates(kth: f32, top_p: f32, scratch: &mut Scratch) -> f32 {
    scratch.candidates.retain(|weight| *weight >= kth);
    let wanted = f64::from(top_p) * sum_from(&scratch.candidates, 0.0);
    boundary(wanted, scratch)
}

/// The same of all tokens. What `min_p` takes out anyway is not looked at: where the rest does not hold `top_p`, 0 is returned.
fn nucleus(weights: &[f32], params: &SamplingParams, scratch: &mut Scratch) -> f32 {
    let whole: f64 = weights
        .chunks(super::host::BLOCK)
        .map(|block| sum_from(block, 0.0))
        .sum();
    let wanted = f64::from(params.top_p) * whole;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a bound, with room for rounding"
    )]
    // All weights below this together do not hold what may be left out.
    let negligible = ((whole - wanted) / weights.len() as f64 * 0.999) as f32;
    let least = negligible.max(params.min_p).min(1.0);
    collect(weights, least, &mut scratch.candidates);
    boundary(wanted, scratch)
}

/// The weight at which the candidates, most likely first, hold `wanted`; 0 where they never do. Only the few that are left in one
/// bucket of one bucket are sorted.
fn boundary(wanted: f64, scratch: &mut Scratch) -> f32 {
    let Scratch { candidates, masses, .. } = scratch;
    let mut held = 0.0;
    for shift in BUCKET_SHIFTS {
        masses.clear();
        masses.resize(BUCKETS, 0.0);
        for weight in &*candidates {
            masses[bucket(*weight, shift)] += f64::from(*weight);
        }
        let mut crossing = None;
        let mut lowest = None;
        for (index, mass) in masses.iter().enumerate().rev().filter(|(_, mass)| **mass > 0.0) {
            if held + mass >= wanted {
                crossing = Some(index);
                break;
            }
            held += mass;
            lowest = Some((index, *mass));
        }
        let index = match (crossing, lowest) {
            (Some(index), _) => index,
            // Summed in another order, the parts of a bucket may fall short of it.
            (None, Some((index, mass))) if shift != BUCKET_SHIFTS[0] => {
                held -= mass;
                index
            }
            _ => return 0.0,
        };
        candidates.retain(|weight| bucket(*weight, shift) == index);
    }
    candidates.sort_unstable_by(|a, b| b.total_cmp(a));
    let last = candidates.iter().find(|weight| {
        held += f64::from(**weight);
        held >= wanted
    });
    last.or(candidates.last()).copied().unwrap_or(0.0)
}

fn bucket(weight: f32, shift: u32) -> usize {
    (weight.to_bits() >> shift) as usize & (BUCKETS - 1)
}

/// The sum of the weights that are at least `least`, in eight lanes, so that it vectorises.
pub(super) fn sum_from(weights: &[f32], least: f32) -> f64 {
    let kept = |weight: &f32| f64::from(if *weight >= least { *weight } else { 0.0 });
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = weights.as_chunks::<8>();
    for chunk in chunks {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += kept(weight);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(kept).sum::<f64>()
}

pub(super) fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}
