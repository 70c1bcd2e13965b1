//! config.json in its older forms, and what it may say that is refused.

use serde_json::{Value, json};

use super::{TOLERANCE, whole};
use crate::testing::{ModelDir, Rig, assert_close, expected, one_at_a_time};
use crate::{LoadOptions, load};

fn change(config: &mut Value, changes: Value) {
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
}

/// Changes what `config` says, but not what it means.
fn means_the_same(name: &str, changes: Value) {
    let mut dir = ModelDir::fixture(name);
    change(&mut dir.config, changes);
    let (ids, logits) = expected(name);
    let mut rig = Rig::new(dir.write().path(), &LoadOptions::default());
    rig.acquire(0, 0);
    assert_close(&rig.logits(&whole(&ids))[0], &logits, TOLERANCE);
}

#[test]
fn rotations_may_be_written_as_they_used_to_be() {
    let scaling = json!({
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    });
    means_the_same(
        "llama-llama3",
        json!({"rope_parameters": null, "rope_scaling": scaling, "rope_theta": 500.0}),
    );
    means_the_same(
        "llama-linear",
        json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    );
    means_the_same(
        "llama-untied",
        json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}}),
    );
}

/// Returns the message for a config.json with some fields changed.
pub(super) fn refusal(name: &str, changes: Value) -> String {
    let _alone = one_at_a_time();
    let mut dir = ModelDir::fixture(name);
    change(&mut dir.config, changes);
    let dir = dir.write();
    load(dir.path(), &LoadOptions::default()).unwrap_err().to_string()
}

pub(super) fn assert_refused(name: &str, changes: Value, words: &str) {
    let message = refusal(name, changes.clone());
    assert!(message.contains("config.json"), "{message}");
    assert!(message.contains(words), "{name}, {changes}: {message}");
    assert!(message.contains(';'), "names no cure: {message}");
}

#[test]
fn rotations_that_cannot_be_computed_are_refused() {
    let rope = |fields: Value| json!({"rope_parameters": fields});
    let cases = [
        (rope(json!({"rope_type": "proportional"})), "rope_parameters.rope_type"),
        (rope(json!({"rope_type": 3})), "a name"),
        (rope(json!("llama3")), "an object"),
        (rope(json!({"rope_type": "linear"})), "rope_parameters.factor"),
        (rope(json!({"rope_type": "linear", "factor": -2})), "positive"),
        (
            rope(json!({"rope_type": "default", "mrope_section": [8, 8]})),
            "mrope_section",
        ),
        (
            rope(json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
            "partial_rotary_factor",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            rope(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0})),
            "above",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "something else",
        ),
        (
            rope(json!({"rope_type": "yarn", "factor": 4.0, "truncate": "no"})),
            "true or false",
        ),
        (
            rope(json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]})),
            "list of 32",
        ),
    ];
    for (changes, words) in cases {
        assert_refused("llama-llama3", changes, words);
    }
}

#[test]
fn gemmas_rotations_may_be_written_as_they_used_to_be() {
    means_the_same(
        "gemma3-untied",
        json!({
            "rope_parameters": null, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 5000.0,
            "rope_local_base_freq": 100.0, "layer_types": null, "sliding_window_pattern": 3,
        }),
    );
}

#[test]
fn windows_may_follow_from_other_fields() {
    let layers = ["full_attention", "sliding_attention", "sliding_attention"];
    means_the_same("qwen2-windowed", json!({"layer_types": layers, "max_window_layers": 0}));
    means_the_same("qwen2-windowed", json!({"layer_types": null}));
    means_the_same("qwen2-tied", json!({"layer_types": null, "sliding_window": 3}));
    means_the_same("mistral-full", json!({"sliding_window": 40}));
}

#[test]
fn factors_of_phi_may_stand_outside() {
    means_the_same(
        "phi3-partial",
        json!({"rope_parameters": null, "rope_theta": 700.0, "partial_rotary_factor": 0.75}),
    );
    let mut dir = ModelDir::fixture("phi3-longrope");
    let factors = dir.config["rope_parameters"].take();
    let scaling = json!({"type": "su", "short_factor": factors["short_factor"], "long_factor": factors["long_factor"]});
    means_the_same(
        "phi3-longrope",
        json!({"rope_parameters": null, "rope_scaling": scaling}),
    );
}

#[test]
fn a_context_of_two_sets_of_factors_ends_with_the_first() {
    let rig = Rig::with_kernels("phi3-longrope", crate::Kernels::Auto);
    assert_eq!(kr_engine::model::Model::limits(&rig.model).context_tokens, 40);
}

#[test]
fn experts_are_counted_under_either_name() {
    means_the_same("qwen3-moe-normed", json!({"num_experts": 5, "num_local_experts": null}));
}

#[test]
fn what_an_architecture_does_not_compute_is_refused() {
    let sliding = json!(["sliding_attention", "sliding_attention"]);
    let cases = [
        ("mistral-full", json!({"hidden_act": "gelu"}), "only \"silu\""),
        ("mistral-full", json!({"attention_bias": true}), "only false"),
        ("mistral-full", json!({"layer_types": sliding}), "layer_types"),
        ("mistral-full", json!({"sliding_window": 0}), "from 1"),
        ("mistral-full", json!({"sliding_window": "all"}), "whole number"),
        ("qwen2-tied", json!({"attention_bias": false}), "only true"),
        ("qwen2-tied", json!({"layer_types": sliding}), "no window"),
        ("qwen2-tied", json!({"layer_types": ["full_attention"]}), "2 times"),
        (
            "qwen2-tied",
            json!({"layer_types": ["full_attention", "linear_attention"]}),
            "2 times",
        ),
        ("qwen3-tied", json!({"hidden_act": "relu"}), "only \"silu\""),
        ("qwen3-tied", json!({"use_sliding_window": 1}), "true or false"),
        ("gemma3-tied", json!({"hidden_activation": "gelu"}), "gelu_pytorch_tanh"),
        ("gemma3-tied", json!({"attn_logit_softcapping": 50.0}), "only null"),
        ("gemma3-tied", json!({"final_logit_softcapping": 30.0}), "only null"),
        (
            "gemma3-tied",
            json!({"use_bidirectional_attention": true}),
            "only false",
        ),
        ("gemma3-tied", json!({"query_pre_attn_scalar": 0}), "positive"),
        ("gemma3-tied", json!({"sliding_window": null}), "need one"),
        (
            "gemma3-tied",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
            "there too",
        ),
        (
            "gemma3-tied",
            json!({"rope_parameters": {"rope_type": "default"}}),
            "full_attention",
        ),
        (
            "phi3-fused",
            json!({"rope_parameters": {"partial_rotary_factor": 2.0}}),
            "of 32 elements",
        ),
        (
            "phi3-longrope",
            json!({"rope_parameters": {"type": "longrope"}}),
            "short_factor",
        ),
        ("qwen3-moe-raw", json!({"num_experts": 5}), "only 5"),
        ("qwen3-moe-raw", json!({"num_experts_per_tok": 8}), "from 1 to 7"),
        ("qwen3-moe-raw", json!({"mlp_only_layers": "none"}), "a list of layers"),
        (
            "qwen3-moe-raw",
            json!({"norm_topk_prob": null, "decoder_sparse_step": 0}),
            "from 1",
        ),
        ("mixtral-windowed", json!({"num_local_experts": 0}), "from 1"),
    ];
    for (name, changes, words) in cases {
        assert_refused(name, changes, words);
    }
}

#[test]
fn settings_of_other_architectures_are_refused_unless_they_change_nothing() {
    let cases = [
        ("logit_scale", json!(0.0625)),
        ("residual_multiplier", json!(0.22)),
        ("attn_logit_softcapping", json!(30.0)),
        ("clip_qkv", json!(8.0)),
        ("qk_layernorm", json!(true)),
    ];
    for (field, value) in cases {
        let mut changes = json!({});
        changes[field] = value;
        assert_refused("llama-linear", changes, field);
    }
    means_the_same(
        "llama-linear",
        json!({"logit_scale": 1, "residual_multiplier": 1.0, "qk_layernorm": false, "clip_qkv": null}),
    );
}

#[test]
fn biases_that_the_configuration_denies_are_refused() {
    let message = refusal("qwen3-biased", json!({"attention_bias": false}));
    assert!(message.contains("q_proj.bias is there"), "{message}");
    let message = refusal("qwen3-tied", json!({"attention_bias": true}));
    assert!(message.contains("q_proj.bias is missing"), "{message}");
}
