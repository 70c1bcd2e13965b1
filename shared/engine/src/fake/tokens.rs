//! Which token follows which ids.

use kr_contract::{SamplingParams, TokenId, token_uniform};

use super::FakeModelConfig;
use crate::model::Sample;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Returns the token after `ids`.
pub(super) fn next(config: &FakeModelConfig, ids: &[TokenId], sample: &Sample) -> TokenId {
    choose(config, ids, &sample.params, sample.position, &sample.forbidden)
}

/// Returns the tokens that follow `prompt`; see [`FakeModelConfig::expected_tokens`].
pub(super) fn expected(
    config: &FakeModelConfig,
    prompt: &[TokenId],
    params: &SamplingParams,
    n: usize,
) -> Vec<TokenId> {
    let mut ids = prompt.to_vec();
    for position in (0..).take(n) {
        let forbidden: &[TokenId] = if position < params.min_tokens {
            &[config.end_token]
        } else {
            &[]
        };
        let token = choose(config, &ids, params, position, forbidden);
        ids.push(token);
        if token == config.end_token && !params.ignore_eos {
            break;
        }
    }
    ids.split_off(prompt.len())
}

fn choose(
    config: &FakeModelConfig,
    ids: &[TokenId],
    params: &SamplingParams,
    position: u32,
    forbidden: &[TokenId],
) -> TokenId {
    let mut state = ids.iter().fold(OFFSET, |state, id| mix(state, *id));
    state = mix(state, position);
    if !params.is_greedy() {
        state = mix(
            state,
            token_uniform(params.seed, params.choice_index, position).to_bits(),
        );
    }
    if chance(finish(state)) < config.end_probability && !forbidden.contains(&config.end_token) {
        return config.end_token;
    }
    let vocabulary = config.vocabulary.max(2);
    let first = low(finish(mix(state, 1))) % vocabulary;
    let allowed = |token: &TokenId| *token != config.end_token && !forbidden.contains(token);
    (0..vocabulary)
        .map(|step| (first + step) % vocabulary)
        .find(allowed)
        .unwrap_or(first)
}

fn mix(state: u64, word: u32) -> u64 {
    word.to_le_bytes()
        .into_iter()
        .fold(state, |state, byte| (state ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Spreads what FNV leaves in the high bits over all of them.
fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 33)
}

fn low(state: u64) -> u32 {
    u32::try_from(state & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn chance(state: u64) -> f64 {
    f64::from(low(state)) / (f64::from(u32::MAX) + 1.0)
}
