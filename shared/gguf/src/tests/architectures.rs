//! Architectures beside Llama. When their tables were written, logits of seeded models converted with them were those
//! that llama.cpp computes from the GGUF file.

use safetensors::SafeTensors;
use serde_json::json;

use super::conversion::{converted, floats};
use super::file::{File, Meta};
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
    let error = failed(File::tiny_of("phi3", &[]));
    assert!(
        error.contains(r#""phi3", which is not supported yet; supported: llama, qwen2, qwen3"#),
        "{error}"
    );
}
