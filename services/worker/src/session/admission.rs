//! Decides what an Admit asks for can be done here. What cannot is refused by name; nothing is ignored.

use kr_contract::{SequenceId, TokenId};
use kr_engine::SequenceRequest;
use kr_proto::worker::{Admit, RejectReason, Sampling};

use crate::convert;

/// What this worker announces in Hello; other features may not be required of it.
pub(crate) const FEATURES: [&str; 6] = [
    "logit_bias",
    "logprobs",
    "min_p",
    "penalties",
    "prompt_logprobs",
    "replay",
];

/// Most alternatives that log probabilities are reported for.
const MAX_LOGPROBS: u32 = 20;

/// A sequence or a session that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// `None`: the session.
    pub(crate) sequence: Option<SequenceId>,
    pub(crate) reason: RejectReason,
    /// Names the field and the cure; never text or ids of a prompt.
    pub(crate) message: String,
}

/// Returns the engine's request for `admit` if this worker can do all that it asks for.
///
/// # Errors
/// With the first thing that is unsupported, else with everything that is invalid.
pub(super) fn check(admit: Admit, vocabulary_size: u32) -> Result<SequenceRequest, Rejection> {
    let reject = |reason, message| {
        Err(Rejection {
            sequence: Some(SequenceId(admit.sequence_id)),
            reason,
            message,
        })
    };
    let Some(sampling) = &admit.sampling else {
        return reject(RejectReason::Invalid, "sampling is missing".to_owned());
    };
    if let Some(message) = unsupported(&admit) {
        return reject(RejectReason::Unsupported, message);
    }
    let params = convert::sampling_params(sampling, admit.logprobs);
    let mut problems = invalid(&admit, sampling, vocabulary_size);
    problems.extend(
        params
            .violations()
            .iter()
            .map(|violation| format!("sampling.{violation}")),
    );
    if !problems.is_empty() {
        return reject(RejectReason::Invalid, problems.join("; "));
    }
    Ok(convert::sequence_request(admit, params))
}

/// Returns which of `required` this worker lacks.
pub(super) fn missing_feature(required: &[String]) -> Option<&String> {
    required.iter().find(|feature| !FEATURES.contains(&feature.as_str()))
}

fn unsupported(admit: &Admit) -> Option<String> {
    if let Some(feature) = missing_feature(&admit.required_features) {
        return Some(format!(
            "required feature {feature} is unknown here; this worker has {}",
            FEATURES.join(", ")
        ));
    }
    let asked_for = [
        ("constraint", admit.constraint.is_some()),
        ("adapter_id", !admit.adapter_id.is_empty()),
    ];
    let (field, _) = asked_for.into_iter().find(|(_, asked)| *asked)?;
    Some(format!("{field} is not supported by this worker; leave it out"))
}

fn invalid(admit: &Admit, sampling: &Sampling, vocabulary_size: u32) -> Vec<String> {
    let mut problems = Vec::new();
    if admit.prompt_ids.is_empty() {
        problems.push("prompt_ids is empty".to_owned());
    }
    if admit.max_tokens == 0 {
        problems.push("max_tokens is 0; ask for at least 1".to_owned());
    }
    for (field, asked) in [("logprobs", admit.logprobs), ("prompt_logprobs", admit.prompt_logprobs)] {
        if let Some(count) = asked.filter(|count| *count > MAX_LOGPROBS) {
            problems.push(format!("{field} is {count}, at most {MAX_LOGPROBS} are reported"));
        }
    }
    let biased: Vec<TokenId> = sampling.logit_bias.keys().copied().collect();
    let ids = [
        ("prompt_ids", &admit.prompt_ids),
        ("emitted_ids", &admit.emitted_ids),
        ("end_token_ids", &admit.end_token_ids),
        ("stop_token_ids", &admit.stop_token_ids),
        ("sampling.logit_bias", &biased),
    ];
    for (field, ids) in ids {
        if ids.iter().any(|id| *id >= vocabulary_size) {
            problems.push(format!(
                "{field} holds an id outside the vocabulary of {vocabulary_size}"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use kr_proto::worker::Constraint;

    use super::*;

    const VOCABULARY: u32 = 100;

    fn admit() -> Admit {
        Admit {
            sequence_id: 7,
            prompt_ids: vec![1, 2, 99],
            max_tokens: 4,
            sampling: Some(Sampling {
                top_p: 1.0,
                repetition_penalty: 1.0,
                ..Sampling::default()
            }),
            ..Admit::default()
        }
    }

    fn changed(change: impl FnOnce(&mut Admit, &mut Sampling)) -> Admit {
        let mut admit = admit();
        let mut sampling = admit.sampling.take().unwrap();
        change(&mut admit, &mut sampling);
        admit.sampling = Some(sampling);
        admit
    }

    #[test]
    fn everything_supported_reaches_the_engine() {
        let request = check(
            changed(|admit, sampling| {
                admit.emitted_ids = vec![3];
                admit.end_token_ids = vec![4];
                admit.stop_token_ids = vec![5];
                admit.logprobs = Some(2);
                admit.prompt_logprobs = Some(3);
                admit.cache_salt = b"salt".to_vec();
                admit.bypass_prefix_cache = true;
                admit.priority = -1;
                admit.required_features = vec!["replay".into(), "penalties".into()];
                sampling.repetition_penalty = 1.1;
                sampling.presence_penalty = 0.1;
                sampling.frequency_penalty = -0.1;
                sampling.temperature = 0.5;
                sampling.top_k = 3;
                sampling.min_p = 0.1;
                sampling.seed = 9;
                sampling.choice_index = 1;
                sampling.min_tokens = 2;
                sampling.ignore_eos = true;
                sampling.logit_bias.insert(6, 1.5);
            }),
            VOCABULARY,
        )
        .unwrap();
        assert_eq!(request.id, SequenceId(7));
        assert_eq!((request.prompt.len(), request.emitted.len()), (3, 1));
        assert_eq!((request.end_ids, request.stop_ids), (vec![4], vec![5]));
        assert_eq!((request.max_tokens, request.priority), (4, -1));
        assert_eq!(
            (request.cache_salt.as_slice(), request.bypass_prefix_cache),
            (b"salt".as_slice(), true)
        );
        assert_eq!(request.prompt_logprobs, Some(3));
        let params = request.sampling;
        assert_eq!((params.temperature, params.top_k, params.min_p), (0.5, 3, 0.1));
        assert_eq!((params.seed, params.choice_index, params.min_tokens), (9, 1, 2));
        assert!(params.ignore_eos);
        let penalties = (
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        );
        assert_eq!(penalties, (1.1, 0.1, -0.1));
        assert_eq!(params.logit_bias, [(6, 1.5)]);
        assert_eq!(params.logprobs, Some(2));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let rows = [
            (
                "constraint",
                changed(|admit, _| admit.constraint = Some(Constraint::default())),
            ),
            ("adapter_id", changed(|admit, _| admit.adapter_id = "a".into())),
            (
                "telepathy",
                changed(|admit, _| admit.required_features = vec!["telepathy".into()]),
            ),
        ];
        for (named, admit) in rows {
            let rejection = check(admit, VOCABULARY).unwrap_err();
            assert_eq!(rejection.reason, RejectReason::Unsupported, "{named}");
            assert!(rejection.message.contains(named), "{}", rejection.message);
            assert_eq!(rejection.sequence, Some(SequenceId(7)));
        }
    }

    #[test]
    fn what_is_invalid_is_named_at_once() {
        let mut missing = admit();
        missing.sampling = None;
        let rows = [
            (vec!["sampling"], missing),
            (vec!["prompt_ids"], changed(|admit, _| admit.prompt_ids.clear())),
            (
                vec!["prompt_ids"],
                changed(|admit, _| admit.prompt_ids.push(VOCABULARY)),
            ),
            (
                vec!["emitted_ids"],
                changed(|admit, _| admit.emitted_ids.push(VOCABULARY)),
            ),
            (
                vec!["end_token_ids"],
                changed(|admit, _| admit.end_token_ids.push(u32::MAX)),
            ),
            (
                vec!["stop_token_ids"],
                changed(|admit, _| admit.stop_token_ids.push(VOCABULARY)),
            ),
            (
                vec!["logit_bias"],
                changed(|_, sampling| sampling.logit_bias.extend([(VOCABULARY, 1.0)])),
            ),
            (vec!["logprobs"], changed(|admit, _| admit.logprobs = Some(21))),
            (
                vec!["prompt_logprobs"],
                changed(|admit, _| admit.prompt_logprobs = Some(21)),
            ),
            (
                vec!["repetition_penalty", "presence_penalty", "frequency_penalty"],
                changed(|_, sampling| {
                    sampling.repetition_penalty = 0.0;
                    sampling.presence_penalty = 2.5;
                    sampling.frequency_penalty = f32::NAN;
                }),
            ),
            (
                vec!["max_tokens", "temperature", "top_p"],
                changed(|admit, sampling| {
                    admit.max_tokens = 0;
                    sampling.temperature = f32::NAN;
                    sampling.top_p = 0.0;
                }),
            ),
        ];
        for (named, admit) in rows {
            let rejection = check(admit, VOCABULARY).unwrap_err();
            assert_eq!(rejection.reason, RejectReason::Invalid, "{}", rejection.message);
            for field in named {
                assert!(rejection.message.contains(field), "{field}: {}", rejection.message);
            }
        }
    }
}
