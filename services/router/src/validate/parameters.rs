//! The `Parameters` message: ranges, defaults, and what is not implemented yet.

use kr_contract::{SamplingParams, TokenId};
use kr_proto::serve as pb;

use super::Asked;
use crate::error::{Error, Violation};
use crate::sequence::Priority;

const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
const MAX_STOP_TOKENS: usize = 64;
const MAX_LOGPROBS: u32 = 20;
const MAX_LOGIT_BIAS: usize = 1024;
const MAX_SALT_BYTES: usize = 256;

/// Parameters with every default filled in but `max_tokens`, which depends on the prompt.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) params: SamplingParams,
    pub(crate) stops: Vec<String>,
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) priority: Priority,
    pub(crate) cache_salt: String,
    pub(crate) bypass_prefix_cache: bool,
    /// An identical request may share the answer: nothing in it is left to chance, and the client does not mind.
    pub(crate) may_share: bool,
    pub(crate) prompt_logprobs: Option<u32>,
}

/// Bounds that are not the same for every server and model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Tokens of the model.
    pub(super) vocabulary: usize,
    /// Answers to one request.
    pub(super) choices: u32,
}

/// Returns the fields that are set, not neutral, and not implemented.
pub(super) fn not_implemented(asked: &Asked) -> Vec<&'static str> {
    let parameters = &asked.parameters;
    let grouped = |grouping: &pb::StreamGrouping| grouping.max_tokens > 0 || grouping.max_delay.is_some();
    let fields = [
        (parameters.response_format.is_some(), "parameters.response_format"),
        (
            parameters.stream_grouping.as_ref().is_some_and(grouped),
            "parameters.stream_grouping",
        ),
        (
            parameters.adapter.as_ref().is_some_and(|name| !name.is_empty()),
            "parameters.adapter",
        ),
        (!asked.idempotency_key.is_empty(), "idempotency_key"),
    ];
    fields
        .into_iter()
        .filter_map(|(set, field)| set.then_some(field))
        .collect()
}

/// Checks every field and adds what is wrong to `violations`.
///
/// # Errors
/// When the system gives no random numbers for the seed.
pub(super) fn check(parameters: pb::Parameters, most: Most, violations: &mut Vec<Violation>) -> Result<Checked, Error> {
    let neutral = SamplingParams::default();
    let params = SamplingParams {
        temperature: parameters.temperature.unwrap_or(neutral.temperature),
        top_p: parameters.top_p.unwrap_or(neutral.top_p),
        top_k: parameters.top_k.unwrap_or(neutral.top_k),
        min_p: parameters.min_p.unwrap_or(neutral.min_p),
        repetition_penalty: parameters.repetition_penalty.unwrap_or(neutral.repetition_penalty),
        presence_penalty: parameters.presence_penalty.unwrap_or(neutral.presence_penalty),
        frequency_penalty: parameters.frequency_penalty.unwrap_or(neutral.frequency_penalty),
        logit_bias: parameters.logit_bias.iter().map(|(id, bias)| (*id, *bias)).collect(),
        seed: match parameters.seed {
            Some(seed) => seed,
            None => random_seed()?,
        },
        choice_index: 0,
        min_tokens: parameters.min_tokens.unwrap_or(0),
        ignore_eos: parameters.ignore_eos.unwrap_or(false),
        logprobs: parameters.logprobs,
    };
    let repeatable = params.is_greedy() || parameters.seed.is_some();
    let may_share = repeatable && !parameters.disable_coalescing.unwrap_or(false);
    let mut wrong = |field: &str, description: String| {
        violations.push(Violation::new(format!("parameters.{field}"), description));
    };
    for violation in params.violations() {
        wrong(
            violation.field,
            format!("is {}, allowed is {}", violation.value, violation.allowed),
        );
    }
    for (field, value) in [
        ("logprobs", parameters.logprobs),
        ("prompt_logprobs", parameters.prompt_logprobs),
    ] {
        if let Some(count) = value.filter(|count| *count > MAX_LOGPROBS) {
            wrong(field, format!("is {count}, allowed is 0 to {MAX_LOGPROBS}"));
        }
    }
    if parameters.max_tokens == Some(0) {
        wrong("max_tokens", "is 0, allowed is 1 or more".to_owned());
    }
    if let Some(n) = parameters.n.filter(|n| !(1..=most.choices).contains(n)) {
        wrong("n", format!("is {n}, allowed is 1 to {}", most.choices));
    }
    if parameters.logit_bias.len() > MAX_LOGIT_BIAS {
        wrong(
            "logit_bias",
            format!(
                "has {} entries, allowed are {MAX_LOGIT_BIAS}",
                parameters.logit_bias.len()
            ),
        );
    }
    let salt = parameters.cache_salt.unwrap_or_default();
    if salt.len() > MAX_SALT_BYTES {
        wrong(
            "cache_salt",
            format!("is {} bytes, allowed are {MAX_SALT_BYTES}", salt.len()),
        );
    }
    check_stops(&parameters.stop, &mut wrong);
    if parameters.stop_token_ids.len() > MAX_STOP_TOKENS {
        let count = parameters.stop_token_ids.len();
        wrong(
            "stop_token_ids",
            format!("has {count} entries, allowed are {MAX_STOP_TOKENS}"),
        );
    }
    check_known(
        "stop_token_ids",
        parameters.stop_token_ids.iter(),
        most.vocabulary,
        &mut wrong,
    );
    check_known("logit_bias", parameters.logit_bias.keys(), most.vocabulary, &mut wrong);
    Ok(Checked {
        params,
        stops: parameters.stop,
        stop_tokens: parameters.stop_token_ids,
        max_tokens: parameters.max_tokens,
        priority: priority(parameters.priority, &mut wrong),
        cache_salt: salt,
        bypass_prefix_cache: parameters.bypass_prefix_cache.unwrap_or(false),
        may_share,
        prompt_logprobs: parameters.prompt_logprobs,
    })
}

fn check_stops(stops: &[String], wrong: &mut impl FnMut(&str, String)) {
    if stops.len() > MAX_STOPS {
        wrong("stop", format!("has {} entries, allowed are {MAX_STOPS}", stops.len()));
    }
    for (index, stop) in stops.iter().take(MAX_STOPS).enumerate() {
        if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
            let description = format!("is {} bytes, allowed are 1 to {MAX_STOP_BYTES}", stop.len());
            wrong(&format!("stop[{index}]"), description);
        }
    }
}

fn check_known<'a>(
    field: &str,
    mut ids: impl Iterator<Item = &'a TokenId>,
    vocabulary: usize,
    wrong: &mut impl FnMut(&str, String),
) {
    if let Some(id) = ids.find(|id| **id as usize >= vocabulary) {
        wrong(field, format!("has {id}, the vocabulary has {vocabulary} tokens"));
    }
}

fn priority(value: i32, wrong: &mut impl FnMut(&str, String)) -> Priority {
    match pb::Priority::try_from(value) {
        Ok(pb::Priority::Low) => Priority::Low,
        Ok(pb::Priority::Unspecified | pb::Priority::Normal) => Priority::Normal,
        Ok(pb::Priority::High) => Priority::High,
        Err(_) => {
            wrong("priority", format!("is {value}, which is no priority"));
            Priority::Normal
        }
    }
}

fn random_seed() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::internal("seed", error))
}
