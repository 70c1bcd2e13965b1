use serde_json::{Value, json};

use crate::testing::{ModelDir, Rig, Run, expected, one_at_a_time};
use crate::{Kernels, LoadOptions, load};

fn whole(ids: &[u32]) -> [Run<'_>; 1] {
    [Run { slot: 0, start: 0, ids }]
}

#[test]
fn a_rotation_base_in_rope_parameters_counts() {
    let mut dir = ModelDir::fixture("llama-untied");
    let (ids, logits) = expected("llama-untied");
    dir.config["rope_parameters"]["rope_theta"] = json!(10_000.0);
    let mut rig = Rig::new(dir.write().path(), &LoadOptions::default());
    rig.acquire(0, 0);
    let other = rig.logits(&whole(&ids)).remove(0);
    assert!(crate::testing::difference(&other[39], &logits[39]) > 0.01);
}

/// Returns the message for a config.json with one field changed.
fn refusal(field: &str, value: Value) -> String {
    let _alone = one_at_a_time();
    let mut dir = ModelDir::fixture("llama-tied");
    dir.config[field] = value;
    let dir = dir.write();
    load(dir.path(), &LoadOptions::default()).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cases = [
        ("architectures", json!(["GemmaForCausalLM"]), "not supported"),
        ("architectures", json!([]), "exactly one"),
        ("hidden_act", json!("gelu"), "only \"silu\""),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
            "rope_scaling",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "proportional"}),
            "rope_parameters.rope_type",
        ),
        ("sliding_window", json!(4096), "sliding_window"),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types",
        ),
        ("num_key_value_heads", json!(3), "multiple"),
        ("num_key_value_heads", json!(8), "from 1 to 4"),
        ("head_dim", json!(31), "even"),
        ("hidden_size", json!(-64), "whole number"),
        ("hidden_size", json!("64"), "whole number"),
        ("hidden_size", Value::Null, "required"),
        ("rms_norm_eps", json!(0.0), "positive"),
        ("tie_word_embeddings", json!("yes"), "true or false"),
        ("eos_token_id", json!("</s>"), "token id"),
        ("quantization_config", json!({"quant_method": "gptq"}), "only MLX's"),
        (
            "quantization",
            json!({"group_size": 32, "bits": 7}),
            "quantization.bits",
        ),
        (
            "quantization",
            json!({"group_size": 16, "bits": 4}),
            "quantization.group_size",
        ),
        (
            "quantization",
            json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
            "affine",
        ),
        (
            "quantization",
            json!({"group_size": 32, "bits": 4, "lm_head": 3}),
            "no override",
        ),
    ];
    for (field, value, words) in cases {
        let message = refusal(field, value.clone());
        assert!(message.contains("config.json"), "{message}");
        assert!(message.contains(words), "{field} = {value}: {message}");
        assert!(message.contains(';'), "names no cure: {message}");
    }
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let cases = [
        (
            "hidden_size",
            json!(32),
            "has shape [97, 64], config.json calls for [97, 32]",
        ),
        (
            "num_hidden_layers",
            json!(3),
            "model.layers.2.self_attn.q_proj.weight is missing",
        ),
        ("tie_word_embeddings", json!(false), "lm_head.weight is missing"),
        ("attention_bias", json!(true), "self_attn.q_proj.bias is missing"),
    ];
    for (field, value, words) in cases {
        let message = refusal(field, value);
        assert!(message.contains(words), "{field}: {message}");
    }
}

#[test]
fn a_bias_that_the_configuration_denies_is_refused() {
    let _alone = one_at_a_time();
    let mut dir = ModelDir::fixture("llama-untied");
    dir.config["attention_bias"] = json!(false);
    let message = load(dir.write().path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("q_proj.bias is there"), "{message}");
}

#[test]
fn the_report_tells_what_was_loaded() {
    let rig = Rig::with_kernels("llama-tied", Kernels::Auto);
    let info = rig.model.info();
    assert_eq!(info.architecture, "LlamaForCausalLM");
    assert_eq!(info.vocab_size, 97);
    assert_eq!(info.eos_token_ids, [2, 5]);
    assert_eq!(info.parameters, 104_832);
    assert_eq!(info.quantization, None);
    assert_eq!(info.tokenizer_digest, None);
    assert_eq!(info.mapped_bytes + info.copied_bytes, 4 * info.parameters);
    assert!(info.model_digest.starts_with("sha256:"));
    assert_eq!(info.fingerprint.dtype, "float32");
}
