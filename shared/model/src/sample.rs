//! Choosing tokens from logits, each sequence by its own settings.
//!
//! # Order of operations
//! 1. `logit_bias` is added.
//! 2. `repetition_penalty`, over prompt and answer: logits above zero are divided by it, others multiplied
//!    (Keskar et al. 2019, "CTRL", arXiv 1909.05858; Hugging Face's `RepetitionPenaltyLogitsProcessor`).
//! 3. `frequency_penalty` times the number of times a token was generated is subtracted, and `presence_penalty` where that is not
//!    zero: over the answer only, as in OpenAI's API.
//! 4. Forbidden ids (end tokens below `min_tokens`) are taken out.
//! 5. `temperature`; 0 takes the most likely token, the first of equals, and ends here.
//! 6. `top_k`, then `top_p` over what is left of the distribution, then `min_p`.
//! 7. The cumulative distribution of what is left, in the order of ids, is inverted at the one uniform number of
//!    ([`token_uniform`](kr_contract::token_uniform)) seed, choice and position.
//!
//! Hugging Face's processors run in this order, and vLLM's sampler up to 5 (it filters by `min_p` first). A filter keeps everything
//! at least as likely as the last token it must keep, so equally likely tokens stay or go together. Log probabilities are those before
//! step 1. Nothing depends on the other rows of a step, nor on threads.
//!
//! [`host`] works on logits that were read back and sums in float64; [`device`] on arrays, in float32, for a token that the next step
//! needs before the host has seen it. Near the boundary between two tokens they may choose differently, so the backend alone decides
//! which one is used: workers of one numerics fingerprint choose alike, whatever their pipeline depth.

pub(crate) mod adjust;
pub(crate) mod device;
mod filter;
pub(crate) mod host;
pub(crate) mod logprobs;
pub(crate) mod rows;

use kr_contract::{SamplingParams, token_uniform};
use kr_engine::model::{ModelError, Sample};

use crate::fingerprint::Backend;

/// Where tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampler {
    /// By [`host`].
    Host,
    /// By [`device`].
    Device,
}

impl Sampler {
    pub(crate) fn of(backend: Backend) -> Self {
        match backend {
            Backend::Cpu => Self::Host,
            Backend::Metal | Backend::Cuda => Self::Device,
        }
    }
}

/// Refuses penalties without the history they look at.
pub(crate) fn check(sample: &Sample) -> Result<(), ModelError> {
    if sample.history.is_none() && has_penalties(&sample.params) {
        return Err(ModelError::Contract(
            "a sequence with penalties comes without its history".to_owned(),
        ));
    }
    Ok(())
}

#[expect(clippy::float_cmp, reason = "compared with the exact values that mean off")]
fn has_penalties(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0
}

/// The uniform number of this token.
fn uniform(sample: &Sample) -> f32 {
    token_uniform(sample.params.seed, sample.params.choice_index, sample.position)
}

#[cfg(test)]
mod tests;
