//! Architectures beside Llama. When the tables of Qwen2 and Qwen3 were written, logits of seeded models converted with them
//! were those that llama.cpp computes from the GGUF file.

use safetensors::SafeTensors;
use serde_json::json;

use super::conversion::{converted, floats};
use super::file::{F32, File, Meta, Q4_1, Q8_0};
use crate::Target;

const BIASES: [(&str, u64); 3] = [("attn_q.bias", 32), ("attn_k.bias", 8), ("attn_v.bias", 8)];
const NORMS: [(&str, u64); 2] = [("attn_q_norm.weight", 8), ("attn_k_norm.weight", 8)];

#[test]
fn qwen2_has_biases_and_rows_as_they_were_trained() {
    let mut file = File::tiny_of("qwen2", &BIASES);
    let converted = converted(&file, Target::Float32);
    let config = converted.json("config.json");
    assert_eq!(config["architectures"], json!(["Qwen2ForCausalLM"]));
    assert_eq!(
        (&config["model_type"], &config["hidden_size"]),
        (&json!("qwen2"), &json!(32))
    );
    assert_eq!(config["attention_bias"], json!(null), "the class implies it");
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let bias = tensors.tensor("model.layers.0.self_attn.q_proj.bias").unwrap();
    assert_eq!(bias.data(), file.tensor("blk.0.attn_q.bias").data);

    let llama = super::conversion::converted(&File::tiny_llama(), Target::Float32);
    let other = llama.weights();
    let other = SafeTensors::deserialize(&other).unwrap();
    let queries = |tensors: &SafeTensors<'_>| {
        let name = "model.layers.0.self_attn.q_proj.weight";
        floats(tensors.tensor(name).unwrap().data())
    };
    let (as_written, put_back) = (queries(&tensors), queries(&other));
    assert_eq!(as_written[..32], put_back[..32], "the first row stays first");
    assert_eq!(as_written[64..96], put_back[32..64], "the third row is Llama's second");
}

#[test]
fn qwen3_has_norms_over_its_heads() {
    let file = File::tiny_of("qwen3", &NORMS).with("qwen3.attention.key_length", Meta::U32(8));
    let converted = converted(&file, Target::Quantized);
    assert_eq!(
        converted.json("config.json")["architectures"],
        json!(["Qwen3ForCausalLM"])
    );
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let norm = tensors.tensor("model.layers.0.self_attn.k_norm.weight").unwrap();
    assert_eq!(norm.shape(), [8]);
}

#[test]
fn an_architectures_tensors_are_required_of_it_and_refused_elsewhere() {
    let failed = |file: File| {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model.gguf");
        std::fs::write(&source, file.bytes()).unwrap();
        let options = crate::ConvertOptions {
            target: Target::Quantized,
            overwrite: false,
            progress: &mut |_| {},
        };
        crate::convert(&source, &dir.path().join("out"), options)
            .unwrap_err()
            .to_string()
    };
    let error = failed(File::tiny_of("qwen2", &BIASES[..2]));
    assert!(error.contains(r#"tensor "blk.0.attn_v.bias" is missing"#), "{error}");
    let error = failed(File::tiny_of("llama", &NORMS));
    assert!(error.contains("models without this tensor"), "{error}");
    let error = failed(File::tiny_of("gemma2", &[]));
    let supported = r#""gemma2", which is not supported yet; supported: llama, qwen2, qwen3, gemma3, phi3, qwen3moe"#;
    assert!(error.contains(supported), "{error}");
}

/// The file's tensors in the folder, as float32.
fn values(converted: &super::conversion::Converted, name: &str) -> Vec<f32> {
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    floats(tensors.tensor(name).unwrap().data())
}

#[test]
fn gemma3_has_norms_without_the_one_that_its_file_adds() {
    let norms = [
        ("attn_q_norm.weight", 8),
        ("attn_k_norm.weight", 8),
        ("post_attention_norm.weight", 32),
        ("post_ffw_norm.weight", 32),
    ];
    let mut file = File::tiny_of("gemma3", &norms)
        .with("gemma3.attention.key_length", Meta::U32(8))
        .with("gemma3.attention.sliding_window", Meta::U32(512))
        .with("gemma3.rope.freq_base", Meta::F32(1e6))
        .with("gemma3.rope.scaling.type", "linear")
        .with("gemma3.rope.scaling.factor", Meta::F32(8.0));
    let converted = converted(&file, Target::Quantized);
    let config = converted.json("config.json");
    for (field, value) in [
        ("architectures", json!(["Gemma3ForCausalLM"])),
        ("sliding_window", json!(512)),
        ("sliding_window_pattern", json!(6)),
        ("rope_local_base_freq", json!(10_000.0)),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 8.0})),
        ("query_pre_attn_scalar", json!(8)),
        ("tie_word_embeddings", json!(true)),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    for (source, name) in [
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
        ("blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
        (
            "blk.0.ffn_norm.weight",
            "model.layers.0.pre_feedforward_layernorm.weight",
        ),
        (
            "blk.0.post_ffw_norm.weight",
            "model.layers.0.post_feedforward_layernorm.weight",
        ),
        ("output_norm.weight", "model.norm.weight"),
    ] {
        let expected: Vec<_> = floats(&file.tensor(source).data)
            .iter()
            .map(|value| value - 1.0)
            .collect();
        assert_eq!(values(&converted, name), expected, "{name}");
    }
}

#[test]
fn gemma3_of_62_layers_scales_queries_by_their_share_of_the_width() {
    let mut file = File::tiny_of("gemma3", &[])
        .with("gemma3.block_count", Meta::U32(62))
        .with("gemma3.attention.key_length", Meta::U32(16))
        .with("gemma3.attention.sliding_window", Meta::U32(512));
    file.tensors.retain(|tensor| !tensor.name.starts_with("blk."));
    for layer in 0..62 {
        for (name, dimensions) in [
            ("attn_norm", vec![32]),
            ("attn_q", vec![32, 64]),
            ("attn_q_norm", vec![16]),
            ("attn_k", vec![32, 16]),
            ("attn_k_norm", vec![16]),
            ("attn_v", vec![32, 16]),
            ("attn_output", vec![64, 32]),
            ("post_attention_norm", vec![32]),
            ("ffn_norm", vec![32]),
            ("ffn_gate", vec![32, 64]),
            ("ffn_up", vec![32, 64]),
            ("ffn_down", vec![64, 32]),
            ("post_ffw_norm", vec![32]),
        ] {
            file.add_tensor(&format!("blk.{layer}.{name}.weight"), dimensions, F32);
        }
    }
    let config = converted(&file, Target::Float32).json("config.json");
    assert_eq!(config["query_pre_attn_scalar"], json!(8.0), "32 by 4 heads, not 16");
}

/// Of one layer.
fn tiny_phi3() -> File {
    let mut file = File::tiny_of("phi3", &[]);
    for tensor in ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"] {
        file = file.without(&format!("blk.0.{tensor}.weight"));
    }
    file.add_tensor("blk.0.attn_qkv.weight", vec![32, 48], F32);
    file.add_tensor("blk.0.ffn_up.weight", vec![32, 128], F32);
    file.with("phi3.rope.scaling.original_context_length", Meta::U32(64))
        .with("phi3.attention.sliding_window", Meta::U32(0))
}

#[test]
fn phi3_keeps_its_fused_matrices_and_turns_heads_in_part() {
    let mut file = tiny_phi3().with("phi3.rope.dimension_count", Meta::U32(6));
    let converted = converted(&file, Target::Float32);
    let config = converted.json("config.json");
    assert_eq!(config["partial_rotary_factor"], json!(0.75));
    assert_eq!(config["sliding_window"], json!(null));
    assert_eq!(config["original_max_position_embeddings"], json!(64));
    assert_eq!(config["rope_scaling"], json!(null));
    for (source, name) in [
        ("blk.0.attn_qkv.weight", "model.layers.0.self_attn.qkv_proj.weight"),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
    ] {
        assert_eq!(values(&converted, name), floats(&file.tensor(source).data), "{name}");
    }
}

#[test]
fn phi3_has_two_sets_of_factors_for_its_contexts() {
    let mut file = tiny_phi3().with("phi3.rope.scaling.attn_factor", Meta::F32(1.25));
    file.add_tensor("rope_factors_long.weight", vec![4], F32);
    file.add_tensor("rope_factors_short.weight", vec![4], F32);
    for (name, factors) in [("long", [1.0_f32, 2.0, 3.0, 4.0]), ("short", [1.0, 1.25, 1.5, 1.75])] {
        let data = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        file.tensor(&format!("rope_factors_{name}.weight")).data = data;
    }
    let config = converted(&file, Target::Quantized).json("config.json");
    let expected = json!({
        "rope_type": "longrope", "long_factor": [1.0, 2.0, 3.0, 4.0], "short_factor": [1.0, 1.25, 1.5, 1.75],
        "original_max_position_embeddings": 64, "attention_factor": 1.25,
    });
    assert_eq!(config["rope_scaling"], expected);
}

#[test]
fn qwen3moe_keeps_experts_in_one_tensor() {
    let mut file = File::tiny_of("qwen3moe", &NORMS)
        .with("qwen3moe.attention.key_length", Meta::U32(8))
        .with("qwen3moe.expert_count", Meta::U32(4))
        .with("qwen3moe.expert_used_count", Meta::U32(2))
        .with("qwen3moe.expert_feed_forward_length", Meta::U32(64));
    for tensor in ["ffn_gate", "ffn_up", "ffn_down"] {
        file = file.without(&format!("blk.0.{tensor}.weight"));
    }
    file.add_tensor("blk.0.ffn_gate_inp.weight", vec![32, 4], F32);
    file.add_tensor("blk.0.ffn_gate_exps.weight", vec![32, 64, 4], Q4_1);
    file.add_tensor("blk.0.ffn_up_exps.weight", vec![32, 64, 4], Q4_1);
    file.add_tensor("blk.0.ffn_down_exps.weight", vec![64, 32, 4], Q8_0);
    let converted = converted(&file, Target::Quantized);
    let config = converted.json("config.json");
    for (field, value) in [
        ("architectures", json!(["Qwen3MoeForCausalLM"])),
        ("num_experts", json!(4)),
        ("num_experts_per_tok", json!(2)),
        ("moe_intermediate_size", json!(64)),
        ("norm_topk_prob", json!(true)),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    let down = "model.layers.0.mlp.switch_mlp.down_proj";
    assert_eq!(config["quantization"][down], json!({"group_size": 32, "bits": 8}));
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!(shape(&format!("{down}.weight")), [4, 32, 16]);
    assert_eq!(shape(&format!("{down}.scales")), [4, 32, 2]);
    assert_eq!(shape("model.layers.0.mlp.switch_mlp.up_proj.weight"), [4, 64, 4]);
    assert_eq!(shape("model.layers.0.mlp.gate.weight"), [4, 32]);
}

#[test]
fn factors_of_llama_3_are_recognised() {
    let theta = 500_000.0_f64;
    let mut file = File::tiny_llama().with("llama.rope.freq_base", Meta::F32(500_000.0));
    file.add_tensor("rope_freqs.weight", vec![4], F32);
    // Wavelengths 6.3, 167, 4443 and 118142 in a context of 8192, which is stretched 32 times.
    let smooth = (8192.0 / (2.0 * std::f64::consts::PI * theta.sqrt()) - 1.0) / 3.0;
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the type of the file")]
    let third = (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32;
    let factors = [1.0, 1.0, third, 32.0];
    file.tensor("rope_freqs.weight").data = factors.into_iter().flat_map(f32::to_le_bytes).collect();
    let config = converted(&file, Target::Quantized).json("config.json");
    let expected = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(config["rope_scaling"], expected);
}

#[test]
fn kinds_of_stretched_contexts_are_carried_over() {
    let yarn = File::tiny_llama()
        .with("llama.rope.scaling.type", "yarn")
        .with("llama.rope.scaling.factor", Meta::F32(4.0))
        .with("llama.rope.scaling.original_context_length", Meta::U32(32));
    let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    assert_eq!(
        converted(&yarn, Target::Quantized).json("config.json")["rope_scaling"],
        expected
    );
    let linear = File::tiny_llama().with("llama.rope.scaling.factor", Meta::F32(2.0));
    let expected = json!({"rope_type": "linear", "factor": 2.0});
    assert_eq!(
        converted(&linear, Target::Quantized).json("config.json")["rope_scaling"],
        expected
    );
}
