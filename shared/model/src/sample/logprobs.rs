//! Log probabilities of rows as the model computed them.

use kr_contract::TokenId;
use kr_engine::model::Logprobs;
use kr_kernels::exponentials;

use super::filter::{maximum, reached, sum_from};
use super::host::{BLOCK, Scratch};

/// Log probabilities of `chosen` and of the `top` most likely tokens, the lower id first of equals. NaN where `chosen` is outside the
/// vocabulary or the row is not finite.
pub(crate) fn logprobs(logits: &[f32], top: u32, chosen: TokenId, scratch: &mut Scratch) -> Logprobs {
    let most = maximum(logits);
    let Scratch {
        instructions,
        weights,
        maxima,
        ..
    } = scratch;
    weights.resize(logits.len(), 0.0);
    exponentials(*instructions, logits, (most, 1.0), weights);
    let sum: f64 = weights.chunks(BLOCK).map(|block| sum_from(block, 0.0)).sum();
    #[expect(clippy::cast_possible_truncation, reason = "reported in float32")]
    let log_sum = (f64::from(most) + sum.ln()) as f32;
    let top = most_likely(logits, top as usize, maxima);
    Logprobs {
        chosen: logits.get(chosen as usize).copied().unwrap_or(f32::NAN) - log_sum,
        top: top.into_iter().map(|id| (id, logits[id as usize] - log_sum)).collect(),
    }
}

fn most_likely(logits: &[f32], count: usize, maxima: &mut Vec<f32>) -> Vec<TokenId> {
    if count == 0 {
        return Vec::new();
    }
    let least = reached(logits, count, maxima);
    let candidates = (0..).zip(logits).filter(|(_, logit)| **logit >= least);
    let mut ids: Vec<TokenId> = candidates.map(|(id, _)| id).collect();
    ids.sort_unstable_by(|a, b| {
        let (left, right) = (logits[*a as usize], logits[*b as usize]);
        right.total_cmp(&left).then(a.cmp(b))
    });
    ids.truncate(count);
    ids
}
