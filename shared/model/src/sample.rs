//! Choosing tokens from logits.
//!
//! In this order: forbidden ids and the logit bias; temperature; `top_k`; `top_p` over what is left of the distribution; `min_p`. A filter
//! keeps everything at least as likely as the last token it must keep, so equally likely tokens stay or go together. What is left is
//! sampled by inverting its cumulative distribution in the order of ids, at the one uniform number of
//! ([`token_uniform`](kr_contract::token_uniform)) seed, choice and position. Nothing depends on the other rows of a step.
//!
//! [`host`] works on logits that were read back; [`device`] on arrays, for a token that the next step needs before the host has seen it.

pub(crate) mod device;
pub(crate) mod host;

use kr_contract::token_uniform;
use kr_engine::model::{ModelError, Sample};

/// Refuses settings that need the tokens generated so far, which a step is not told.
pub(crate) fn check(sample: &Sample) -> Result<(), ModelError> {
    let params = &sample.params;
    let penalties = [
        ("repetition_penalty", params.repetition_penalty, 1.0),
        ("presence_penalty", params.presence_penalty, 0.0),
        ("frequency_penalty", params.frequency_penalty, 0.0),
    ];
    #[expect(clippy::float_cmp, reason = "compared with the exact value that means off")]
    let set = penalties.iter().find(|(_, value, off)| value != off);
    match set {
        None => Ok(()),
        Some((field, value, _)) => Err(ModelError::Contract(format!(
            "{field} is {value}: penalties are not supported yet"
        ))),
    }
}

/// The uniform number of this token.
fn uniform(sample: &Sample) -> f32 {
    token_uniform(sample.params.seed, sample.params.choice_index, sample.position)
}

#[cfg(test)]
mod tests;
