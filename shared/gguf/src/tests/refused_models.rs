//! Well-formed files that are refused: each error names the tensor or key, what it has and what would be accepted.

use super::file::{F32, File, Meta, Q4_K};
use crate::{ConvertOptions, Target, convert};

#[track_caller]
fn refused(file: File, parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    std::fs::write(&source, file.bytes()).unwrap();
    let options = ConvertOptions {
        target: Target::Quantized,
        overwrite: false,
        progress: &mut |_| {},
    };
    let text = convert(&source, &dir.path().join("out"), options)
        .unwrap_err()
        .to_string();
    for part in parts.iter().chain(&["model.gguf: "]) {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn tiny() -> File {
    File::tiny_llama()
}

#[test]
fn other_architectures_and_parts_of_models() {
    refused(
        tiny().with("general.architecture", "mamba"),
        &[r#""mamba""#, "supported: llama, qwen2, qwen3"],
    );
    refused(
        tiny().without("general.architecture"),
        &[r#"metadata key "general.architecture" is missing"#],
    );
    refused(
        tiny().with("general.type", "adapter"),
        &[r#""adapter""#, "supported: model"],
    );
}

#[test]
fn tensor_types_without_a_codec_are_named() {
    for (type_id, name, block_bytes) in [(10, "Q2_K", 84), (11, "Q3_K", 110), (15, "Q8_K", 292)] {
        let mut file = File::llama_of(Q4_K);
        let tensor = file.tensor("blk.0.ffn_gate.weight");
        tensor.type_id = type_id;
        tensor.data = vec![0; 256 * block_bytes];
        let parts = [
            &format!(r#"tensor "blk.0.ffn_gate.weight" has type {name} (described at byte "#),
            "not supported yet",
            "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16",
            "choose another export of the model",
        ];
        refused(file, &parts);
    }
}

#[test]
fn settings_that_would_change_the_computation() {
    refused(
        tiny().with("llama.rope.scaling.type", "longrope"),
        &[r#""llama.rope.scaling.type" has "longrope""#, "none, linear, yarn"],
    );
    refused(
        tiny().with("llama.rope.scaling.type", "yarn"),
        &[r#""llama.rope.scaling.original_context_length" is missing"#],
    );
    refused(
        tiny().with("llama.rope.scaling.attn_factor", Meta::F32(1.2)),
        &[r#""llama.rope.scaling.attn_factor" has 1.2"#],
    );
    refused(
        tiny().with("llama.expert_count", Meta::U32(8)),
        &[r#""llama.expert_count" has 8"#],
    );
    refused(tiny().with("llama.logit_scale", Meta::F32(0.5)), &["llama.logit_scale"]);
    let mut file = tiny();
    file.add_tensor("rope_freqs.weight", vec![4], F32);
    refused(file, &[r#"tensor "rope_freqs.weight""#, "not those of Llama 3"]);
}

#[test]
fn sizes_that_contradict_each_other() {
    let key = |key: &str, value: u32| tiny().with(key, Meta::U32(value));
    refused(
        key("llama.embedding_length", 64),
        &[r#"tensor "token_embd.weight" has shape [262, 32]"#, "[262, 64]"],
    );
    refused(
        key("llama.attention.head_count", 5),
        &["a divisor of the embedding length, 32"],
    );
    refused(
        key("llama.attention.head_count_kv", 3),
        &["a divisor of the 4 attention heads"],
    );
    refused(
        key("llama.attention.head_count", 0),
        &["has 0, expected a number above 0"],
    );
    refused(key("llama.attention.head_count", 32), &["an even number"]);
    refused(key("llama.rope.dimension_count", 4), &["has 4, expected 8"]);
    refused(key("llama.vocab_size", 300), &["has 300, expected 262"]);
    refused(
        key("llama.block_count", 2),
        &[r#"tensor "blk.1.attn_norm.weight" is missing"#],
    );
    refused(
        key("llama.block_count", u32::MAX),
        &[r#"tensor "blk.1.attn_norm.weight" is missing"#],
    );
    refused(
        tiny().with("llama.block_count", "many"),
        &["has a string, expected a whole number"],
    );
    refused(
        tiny().with("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN)),
        &["expected a finite number"],
    );
}

#[test]
fn neutral_settings_are_accepted() {
    let file = tiny()
        .with("llama.rope.scaling.type", "none")
        .with("llama.expert_count", Meta::U32(0));
    refused(
        file.without("output_norm.weight"),
        &[r#"tensor "output_norm.weight" is missing"#],
    );
}

#[test]
fn tokenizers_that_cannot_be_rebuilt() {
    refused(
        tiny().with("tokenizer.ggml.model", "t5"),
        &[r#""t5""#, r#""gpt2" (byte-level BPE), "llama" (SentencePiece BPE)"#],
    );
    refused(
        tiny().with("tokenizer.ggml.pre", "tekken"),
        &[r#""tekken""#, r#"supported: "smollm", "gpt-2""#],
    );
    refused(
        tiny().with("tokenizer.ggml.add_space_prefix", Meta::Bool(true)),
        &["add_space_prefix"],
    );
    refused(
        tiny().with("tokenizer.ggml.eos_token_id", Meta::U32(262)),
        &["has 262, expected an id below 262"],
    );
    refused(
        tiny().with("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1])),
        &["2 entries", "262"],
    );
    refused(
        tiny().with("tokenizer.ggml.token_type", Meta::I32s(vec![9; 262])),
        &["token type 9"],
    );
    refused(
        tiny().without("tokenizer.ggml.merges"),
        &[r#""tokenizer.ggml.merges" is missing"#],
    );
    let merges = |merge: &str| tiny().with("tokenizer.ggml.merges", Meta::Texts(vec![merge.into()]));
    refused(merges("hell"), &["two tokens with a space between"]);
    refused(merges("h q"), &["two tokens of the vocabulary whose union is one too"]);
    let tokens = |tokens: &[&str]| {
        tiny().with(
            "tokenizer.ggml.tokens",
            Meta::Texts(tokens.iter().map(|token| (*token).into()).collect()),
        )
    };
    refused(tokens(&["a", "b", "a"]), &[r#"token "a" twice, as 0 and 2"#]);
    refused(tokens(&["a"; 300]), &["300 tokens", "at most 262"]);
    let bos = tiny()
        .with("tokenizer.ggml.add_bos_token", Meta::Bool(true))
        .without("tokenizer.ggml.bos_token_id");
    refused(bos, &[r#""tokenizer.ggml.bos_token_id" is missing"#]);
}
