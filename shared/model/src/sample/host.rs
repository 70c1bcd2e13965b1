//! Sampling on logits in host memory, one row at a time.

use kr_contract::TokenId;
use kr_engine::model::{Sample, SampleError};
use kr_kernels::{Instructions, exponentials};

use super::adjust::{adjust, adjusts};
use super::filter::{self, least_kept, maximum, sum_from};
use super::uniform;

/// Weights that are summed before they are added to the rest.
pub(super) const BLOCK: usize = 512;

/// Memory that is used again for every row.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(super) instructions: Instructions,
    adjusted: Vec<f32>,
    pub(super) weights: Vec<f32>,
    filter: filter::Scratch,
    pub(super) maxima: Vec<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            instructions: Instructions::detect(),
            adjusted: Vec::new(),
            weights: Vec::new(),
            filter: filter::Scratch::default(),
            maxima: Vec::new(),
        }
    }
}

/// Chooses a token from one row of logits.
pub(crate) fn choose(logits: &[f32], sample: &Sample, scratch: &mut Scratch) -> Result<TokenId, SampleError> {
    let mut most = finite_maximum(logits).ok_or(SampleError::NotFinite)?;
    let mut adjusted = std::mem::take(&mut scratch.adjusted);
    let mut row = logits;
    if adjusts(sample) {
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        adjust(&mut adjusted, sample);
        most = maximum(&adjusted);
        row = &adjusted;
    }
    let chosen = match (most == f32::NEG_INFINITY, sample.params.is_greedy()) {
        (true, _) => Err(SampleError::NotFinite),
        (_, true) => Ok(first_at_least(row, most)),
        (_, false) => {
            let (weights, least) = distribution(row, most, sample, scratch);
            Ok(invert(weights, least, uniform(sample)).unwrap_or_else(|| first_at_least(row, most)))
        }
    };
    scratch.adjusted = adjusted;
    chosen
}

/// The weights of a row's tokens, 1 for the most likely one, and the least weight that is kept. `most`: the largest logit.
pub(super) fn distribution<'a>(
    logits: &[f32],
    most: f32,
    sample: &Sample,
    scratch: &'a mut Scratch,
) -> (&'a [f32], f32) {
    let Scratch {
        instructions,
        weights,
        filter,
        ..
    } = scratch;
    weights.resize(logits.len(), 0.0);
    exponentials(*instructions, logits, (most, sample.params.temperature), weights);
    let least = least_kept(weights, &sample.params, filter);
    (weights, least)
}

/// The largest logit; `None` where any is not finite. NaN times zero is NaN and so is infinity times zero; written so that it
/// vectorises.
pub(super) fn finite_maximum(logits: &[f32]) -> Option<f32> {
    let mut most = [f32::NEG_INFINITY; 8];
    let mut zeros = [0.0_f32; 8];
    let (chunks, rest) = logits.as_chunks::<8>();
    for chunk in chunks {
        for ((most, zero), logit) in most.iter_mut().zip(&mut zeros).zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
            *zero += logit * 0.0;
        }
    }
    let finite = zeros.iter().chain(rest).all(|value| value.is_finite());
    let most = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (finite && most.is_finite()).then_some(most)
}

fn first_at_least(logits: &[f32], value: f32) -> TokenId {
    let index = logits.iter().position(|logit| *logit >= value).unwrap_or(0);
    TokenId::try_from(index).unwrap_or(TokenId::MAX)
}

/// The first id at which the cumulative weight of what is kept exceeds `uniform` times the whole; `None` where rounding leaves none.
fn invert(weights: &[f32], least: f32, uniform: f32) -> Option<TokenId> {
    let blocks: Vec<f64> = weights.chunks(BLOCK).map(|block| sum_from(block, least)).collect();
    let target = f64::from(uniform) * blocks.iter().sum::<f64>();
    let (mut before, mut first) = (0.0, 0);
    while first + 1 < blocks.len() && before + blocks[first] <= target {
        before += blocks[first];
        first += 1;
    }
    let start = first * BLOCK;
    let index = weights[start..].iter().position(|weight| {
        let kept = if *weight >= least { *weight } else { 0.0 };
        before += f64::from(kept);
        kept > 0.0 && before > target
    })?;
    TokenId::try_from(start + index).ok()
}
