//! Sampling on logits in host memory, one row at a time.

use kr_contract::TokenId;
use kr_engine::model::{Logprobs, Sample, SampleError};
use kr_kernels::{Instructions, exponentials};

use super::uniform;

/// Weights that are summed before they are added to the rest.
const BLOCK: usize = 512;

/// Memory that is used again for every row.
#[derive(Debug)]
pub(crate) struct Scratch {
    instructions: Instructions,
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    order: Vec<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            instructions: Instructions::detect(),
            adjusted: Vec::new(),
            weights: Vec::new(),
            order: Vec::new(),
        }
    }
}

/// Chooses a token from one row of logits.
pub(crate) fn choose(logits: &[f32], sample: &Sample, scratch: &mut Scratch) -> Result<TokenId, SampleError> {
    if !all_finite(logits) {
        return Err(SampleError::NotFinite);
    }
    let logits = adjust(logits, sample, &mut scratch.adjusted);
    let max = maximum(logits);
    if max == f32::NEG_INFINITY {
        return Err(SampleError::NotFinite);
    }
    if sample.params.is_greedy() {
        return Ok(first_at_least(logits, max));
    }
    let weights = &mut scratch.weights;
    weights.resize(logits.len(), 0.0);
    exponentials(scratch.instructions, logits, (max, sample.params.temperature), weights);
    filter(logits, sample, weights, &mut scratch.order);
    Ok(invert(weights, uniform(sample)).unwrap_or_else(|| first_at_least(logits, max)))
}

/// Log probabilities of a row as the model computed it, where they were asked for.
pub(crate) fn logprobs(logits: &[f32], sample: &Sample, chosen: TokenId) -> Option<Logprobs> {
    let count = sample.params.logprobs? as usize;
    let max = maximum(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    #[expect(clippy::cast_possible_truncation, reason = "reported in float32")]
    let log_sum = max + sum.ln() as f32;
    let mut ids: Vec<TokenId> = (0..).take(logits.len()).collect();
    let likelier = |a: &TokenId, b: &TokenId| {
        let (left, right) = (logits[*a as usize], logits[*b as usize]);
        right.total_cmp(&left).then(a.cmp(b))
    };
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, likelier);
    }
    ids.truncate(count);
    ids.sort_unstable_by(likelier);
    Some(Logprobs {
        chosen: logits.get(chosen as usize).copied().unwrap_or(f32::NAN) - log_sum,
        top: ids.into_iter().map(|id| (id, logits[id as usize] - log_sum)).collect(),
    })
}

/// NaN times zero is NaN and so is infinity times zero; written so that it vectorises.
fn all_finite(logits: &[f32]) -> bool {
    let mut lanes = [0.0_f32; 8];
    let (chunks, rest) = logits.as_chunks::<8>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane += logit * 0.0;
        }
    }
    lanes.iter().chain(rest).all(|value| value.is_finite())
}

fn maximum(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = logits.as_chunks::<8>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

fn first_at_least(logits: &[f32], value: f32) -> TokenId {
    let index = logits.iter().position(|logit| *logit >= value).unwrap_or(0);
    TokenId::try_from(index).unwrap_or(TokenId::MAX)
}

/// Applies forbidden ids and the logit bias, on a copy where there are any. Ids outside the vocabulary are ignored.
fn adjust<'a>(logits: &'a [f32], sample: &Sample, copy: &'a mut Vec<f32>) -> &'a [f32] {
    if sample.forbidden.is_empty() && sample.params.logit_bias.is_empty() {
        return logits;
    }
    copy.clear();
    copy.extend_from_slice(logits);
    for (id, bias) in &sample.params.logit_bias {
        if let Some(logit) = copy.get_mut(*id as usize) {
            *logit += bias;
        }
    }
    for id in sample.forbidden.iter() {
        if let Some(logit) = copy.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    copy
}

/// Sets the weights of tokens that a filter takes out to zero. `weights`: 1 for the most likely token.
fn filter(logits: &[f32], sample: &Sample, weights: &mut [f32], order: &mut Vec<f32>) {
    let params = &sample.params;
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < logits.len() {
        order.clear();
        order.extend_from_slice(logits);
        let (_, kth, _) = order.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
        let kth = *kth;
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight = if *logit < kth { 0.0 } else { *weight };
        }
    }
    let nucleus = match params.top_p < 1.0 {
        true => nucleus(weights, params.top_p, order),
        false => 0.0,
    };
    // Rounding must never filter out the most likely token.
    let least = nucleus.max(params.min_p).min(1.0);
    for weight in weights {
        *weight = if *weight < least { 0.0 } else { *weight };
    }
}

/// The weight of the last token of the smallest set of most likely ones that holds `top_p` of the whole. Sorts the most likely ones
/// only, more of them as long as they do not suffice.
fn nucleus(weights: &[f32], top_p: f32, order: &mut Vec<f32>) -> f32 {
    order.clear();
    order.extend(weights.iter().filter(|weight| **weight > 0.0));
    let wanted = f64::from(top_p) * weights.chunks(BLOCK).map(sum).sum::<f64>();
    let (mut held, mut sorted, mut count) = (0.0, 0, 256);
    while sorted < order.len() {
        let end = order.len().min(sorted + count);
        let rest = &mut order[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted, |a, b| b.total_cmp(a));
        }
        rest[..end - sorted].sort_unstable_by(|a, b| b.total_cmp(a));
        for weight in &order[sorted..end] {
            held += f64::from(*weight);
            if held >= wanted {
                return *weight;
            }
        }
        sorted = end;
        count *= 8;
    }
    0.0
}

/// In eight lanes, so that it vectorises.
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = weights.as_chunks::<8>();
    for chunk in chunks {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*weight);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|weight| f64::from(*weight)).sum::<f64>()
}

/// The first id at which the cumulative weight exceeds `uniform` times the whole; `None` where rounding leaves none.
fn invert(weights: &[f32], uniform: f32) -> Option<TokenId> {
    let blocks: Vec<f64> = weights.chunks(BLOCK).map(sum).collect();
    let target = f64::from(uniform) * blocks.iter().sum::<f64>();
    let (mut before, mut first) = (0.0, 0);
    while first + 1 < blocks.len() && before + blocks[first] <= target {
        before += blocks[first];
        first += 1;
    }
    let start = first * BLOCK;
    let index = weights[start..].iter().position(|weight| {
        before += f64::from(*weight);
        *weight > 0.0 && before > target
    })?;
    TokenId::try_from(start + index).ok()
}
