use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;

use super::*;
use crate::catalog::tests::byte_model;
use crate::sequence::Priority;

const LIMITS: Limits = Limits {
    max_prompt_tokens: 0,
    default_max_tokens: 16,
    max_choices: 16,
};

fn text(prompt: &str) -> Asked {
    Asked {
        prompt: Prompt::Text(prompt.to_owned()),
        parameters: pb::Parameters::default(),
        idempotency_key: String::new(),
    }
}

fn with(parameters: pb::Parameters) -> Asked {
    Asked {
        parameters,
        ..text("hello")
    }
}

async fn validate(asked: Asked) -> Result<ValidRequest, Error> {
    validate_within(asked, LIMITS).await
}

async fn validate_within(asked: Asked, limits: Limits) -> Result<ValidRequest, Error> {
    let call = Call::begin(&HeaderMap::new())?;
    let model = Arc::new(byte_model(0, "bytes", &[]));
    let place = Place {
        call: &call,
        model: &model,
        longest_sequence: model.context_tokens,
    };
    Validator::new(limits).validate(asked, place).await
}

async fn fields(asked: Asked) -> Vec<String> {
    match validate(asked).await {
        Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("not a list of fields: {other:?}"),
    }
}

#[tokio::test]
async fn a_plain_prompt_gets_every_default() {
    let before = Instant::now();
    let valid = validate(text("hello")).await.unwrap();
    let sequence = valid.sequence;
    assert_eq!(&*sequence.prompt, b"hello".map(u32::from));
    assert_eq!((sequence.max_tokens, sequence.priority), (16, Priority::Normal));
    assert_eq!((sequence.params.temperature, sequence.params.top_p), (1.0, 1.0));
    assert_eq!(&*sequence.end_tokens, [257]);
    assert!(sequence.arrived >= before && sequence.deadline.is_none());
}

#[tokio::test]
async fn seeds_are_kept_or_drawn() {
    let seeded = validate(with(pb::Parameters {
        seed: Some(7),
        ..Default::default()
    }));
    assert_eq!(seeded.await.unwrap().sequence.params.seed, 7);
    let one = validate(text("a")).await.unwrap().sequence.params.seed;
    let other = validate(text("a")).await.unwrap().sequence.params.seed;
    assert_ne!(one, other);
}

#[tokio::test]
async fn every_field_at_fault_is_named_at_once() {
    let asked = Asked {
        prompt: Prompt::Text(String::new()),
        idempotency_key: "k".repeat(129),
        ..with(pb::Parameters {
            temperature: Some(f32::NAN),
            top_p: Some(1.5),
            min_p: Some(-1.0),
            max_tokens: Some(0),
            n: Some(17),
            logprobs: Some(21),
            priority: 9,
            cache_salt: Some("s".repeat(257)),
            stop: vec![String::new(); 10_000],
            stop_token_ids: vec![258],
            logit_bias: [(258, 1.0)].into(),
            ..Default::default()
        })
    };
    let mut named = fields(asked).await;
    named.retain(|field| !field.starts_with("parameters.stop["));
    assert_eq!(
        named,
        [
            "prompt",
            "idempotency_key",
            "parameters.temperature",
            "parameters.top_p",
            "parameters.min_p",
            "parameters.logprobs",
            "parameters.max_tokens",
            "parameters.n",
            "parameters.cache_salt",
            "parameters.stop",
            "parameters.stop_token_ids",
            "parameters.logit_bias",
            "parameters.priority",
        ]
    );
}

#[tokio::test]
async fn infinite_and_negative_settings_are_out_of_range() {
    for temperature in [f32::INFINITY, f32::NEG_INFINITY, -0.5, 101.0] {
        let parameters = pb::Parameters {
            temperature: Some(temperature),
            ..Default::default()
        };
        assert_eq!(
            fields(with(parameters)).await,
            ["parameters.temperature"],
            "{temperature}"
        );
    }
}

#[tokio::test]
async fn prompts_that_are_none_are_refused() {
    let ids = |ids: &[u32]| Prompt::Ids(ids.to_vec());
    let message = |role: &str, content: &str| pb::ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    for (prompt, field) in [
        (Prompt::Missing, "prompt"),
        (Prompt::Text("a\0b".to_owned()), "prompt"),
        (ids(&[]), "prompt_ids"),
        (ids(&[1, 258]), "prompt_ids.ids[1]"),
        (Prompt::Conversation(Vec::new()), "messages"),
        (Prompt::Conversation(vec![message("", "hi")]), "messages[0].role"),
        (Prompt::Conversation(vec![message("bad", "hi")]), "messages"),
    ] {
        let asked = Asked { prompt, ..text("") };
        assert_eq!(fields(asked).await, [field]);
    }
}

#[tokio::test]
async fn control_tokens_in_text_stay_text() {
    let valid = validate(text("</s>")).await.unwrap();
    assert_eq!(&*valid.sequence.prompt, b"</s>".map(u32::from));
    let messages = vec![pb::ChatMessage {
        role: "user".to_owned(),
        content: "</s>".to_owned(),
    }];
    let chat = Asked {
        prompt: Prompt::Conversation(messages),
        ..text("")
    };
    let ids = validate(chat).await.unwrap().sequence.prompt.to_vec();
    assert_eq!(
        ids.iter().filter(|id| **id == 257).count(),
        1,
        "only the template's own: {ids:?}"
    );
}

#[tokio::test]
async fn long_texts_are_tokenized_too() {
    let long = "x".repeat(10_000);
    let refused = validate(text(&long)).await.unwrap_err();
    let Error::ContextLength {
        prompt_tokens,
        limit,
        field,
        ..
    } = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((prompt_tokens, limit, field), (10_000, 64, "prompt"));
}

#[tokio::test]
async fn prompt_and_answer_must_fit_the_context() {
    let asking = |max_tokens| {
        with(pb::Parameters {
            max_tokens: Some(max_tokens),
            ..Default::default()
        })
    };
    assert_eq!(validate(asking(59)).await.unwrap().sequence.max_tokens, 59);
    for too_many in [60, u32::MAX] {
        let refused = validate(asking(too_many)).await.unwrap_err();
        let Error::ContextLength { field, .. } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(field, "parameters.max_tokens");
    }
    let almost_full = validate(text(&"x".repeat(60))).await.unwrap();
    assert_eq!(
        almost_full.sequence.max_tokens, 4,
        "what the context leaves, below the default"
    );
}

#[tokio::test]
async fn the_operators_prompt_limit_holds_below_the_context() {
    let limits = Limits {
        max_prompt_tokens: 4,
        ..LIMITS
    };
    assert!(validate_within(text("four"), limits).await.is_ok());
    let refused = validate_within(text("fifth"), limits).await.unwrap_err();
    assert!(matches!(refused, Error::ContextLength { limit: 4, .. }), "{refused:?}");
}

#[tokio::test]
async fn min_tokens_cannot_pass_max_tokens() {
    let parameters = pb::Parameters {
        min_tokens: Some(9),
        max_tokens: Some(8),
        ..Default::default()
    };
    assert_eq!(fields(with(parameters)).await, ["parameters.min_tokens"]);
}

#[tokio::test]
async fn fields_that_are_not_implemented_are_refused_by_name() {
    let asked = Asked {
        idempotency_key: "once".to_owned(),
        ..with(pb::Parameters {
            response_format: Some(pb::ResponseFormat::default()),
            stream_grouping: Some(pb::StreamGrouping {
                max_tokens: 4,
                max_delay: None,
            }),
            adapter: Some("lora".to_owned()),
            ..Default::default()
        })
    };
    let Err(Error::NotImplemented { fields }) = validate(asked).await else {
        panic!("accepted")
    };
    assert_eq!(
        fields,
        [
            "parameters.response_format",
            "parameters.stream_grouping",
            "parameters.adapter",
            "idempotency_key",
        ]
    );
}

#[tokio::test]
async fn neutral_values_of_such_fields_are_no_obstacle() {
    let neutral = pb::Parameters {
        stream_grouping: Some(pb::StreamGrouping::default()),
        adapter: Some(String::new()),
        disable_coalescing: Some(true),
        ..Default::default()
    };
    assert!(validate(with(neutral)).await.is_ok());
}

#[tokio::test]
async fn penalties_reach_the_sequence_and_are_held_to_their_ranges() {
    let penalties = |repetition, presence, frequency| pb::Parameters {
        repetition_penalty: Some(repetition),
        presence_penalty: Some(presence),
        frequency_penalty: Some(frequency),
        ..Default::default()
    };
    let params = validate(with(penalties(1.1, 0.5, -0.5))).await.unwrap().sequence.params;
    assert_eq!(
        (
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty
        ),
        (1.1, 0.5, -0.5)
    );
    assert_eq!(
        fields(with(penalties(0.0, 2.5, f32::NAN))).await,
        [
            "parameters.repetition_penalty",
            "parameters.presence_penalty",
            "parameters.frequency_penalty"
        ]
    );
}

#[tokio::test]
async fn choices_share_prompt_and_seed_and_differ_by_their_index() {
    let asking = |n| pb::Parameters {
        n: Some(n),
        prompt_logprobs: Some(3),
        ..Default::default()
    };
    let valid = validate(with(asking(3))).await.unwrap();
    assert_eq!(valid.choices, 3);
    let choices: Vec<_> = (0..3).map(|choice| valid.sequence_of(choice)).collect();
    assert!(
        choices
            .iter()
            .all(|choice| choice.params.seed == valid.sequence.params.seed)
    );
    let differing: Vec<_> = choices
        .iter()
        .map(|choice| (choice.params.choice_index, choice.prompt_logprobs))
        .collect();
    assert_eq!(differing, [(0, Some(3)), (1, None), (2, None)]);
    for n in [0, 17] {
        assert_eq!(fields(with(asking(n))).await, ["parameters.n"], "{n}");
    }
}

#[tokio::test]
async fn the_cache_is_salted_and_bypassed_as_asked() {
    let parameters = pb::Parameters {
        bypass_prefix_cache: Some(true),
        cache_salt: Some("mine".to_owned()),
        ..Default::default()
    };
    let sequence = validate(with(parameters)).await.unwrap().sequence;
    assert!(sequence.bypass_prefix_cache);
    assert_eq!(sequence.cache_salt, kr_contract::block_salt("default", "mine"));
}

fn conversation(messages: usize, role: &str, content: &str) -> Asked {
    let message = pb::ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    Asked {
        prompt: Prompt::Conversation(vec![message; messages]),
        ..text("")
    }
}

#[tokio::test]
async fn of_thousands_of_messages_at_fault_a_few_are_named() {
    let named = fields(conversation(10_000, "", "hello")).await;
    assert_eq!((named.len(), named[0].as_str()), (8, "messages[0].role"));
}

#[tokio::test]
async fn only_repeatable_answers_are_shared_and_clients_may_decline() {
    let shared = async |temperature, seed, disable| {
        let parameters = pb::Parameters {
            temperature,
            seed,
            disable_coalescing: disable,
            cache_salt: Some("s".to_owned()),
            ..Default::default()
        };
        validate(with(parameters)).await.unwrap().sequence.shared_under
    };
    assert_eq!(shared(Some(0.0), None, None).await.as_deref(), Some("s"));
    assert_eq!(shared(Some(0.7), Some(1), None).await.as_deref(), Some("s"));
    assert_eq!(
        shared(None, None, None).await,
        None,
        "a random seed is each client's own"
    );
    assert_eq!(shared(Some(0.0), None, Some(true)).await, None);
}
