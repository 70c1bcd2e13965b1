//! What a converted folder holds, against values computed here from the source's bytes.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};

use super::file::{F16, F32, File, Meta};
use crate::{ConvertOptions, Progress, Stage, Summary, Target, convert};

pub(super) struct Converted {
    dir: tempfile::TempDir,
    pub(super) summary: Summary,
    progress: Vec<Progress>,
}

pub(super) fn converted(file: &File, target: Target) -> Converted {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    std::fs::write(&source, file.bytes()).unwrap();
    let mut progress = Vec::new();
    let options = ConvertOptions {
        target,
        overwrite: false,
        progress: &mut |step| progress.push(step),
    };
    let summary = convert(&source, &dir.path().join("out"), options).unwrap();
    Converted { dir, summary, progress }
}

impl Converted {
    pub(super) fn dir(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir().join(name)
    }

    pub(super) fn json(&self, name: &str) -> Json {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub(super) fn weights(&self) -> Vec<u8> {
        std::fs::read(self.path("model.safetensors")).unwrap()
    }
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The values of Q4_1 blocks, written as the format's own description puts it.
fn q4_1_values(data: &[u8]) -> Vec<f32> {
    let block = |block: &[u8]| -> Vec<f32> {
        let level = |at: usize| {
            if at < 16 {
                block[4 + at] & 15
            } else {
                block[4 + at - 16] >> 4
            }
        };
        (0..32)
            .map(|at| half_at(block, 0) * f32::from(level(at)) + half_at(block, 2))
            .collect()
    };
    data.chunks_exact(20).flat_map(block).collect()
}

fn q8_0_values(data: &[u8]) -> Vec<f32> {
    let block = |block: &[u8]| -> Vec<f32> {
        block[2..]
            .iter()
            .map(|level| half_at(block, 0) * f32::from(level.cast_signed()))
            .collect()
    };
    data.chunks_exact(34).flat_map(block).collect()
}

/// Head by head, the rows 0, 2, 4, … and then 1, 3, 5, …
fn deinterleaved(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks_exact(columns).collect();
    let head = |head: &[&[f32]]| -> Vec<f32> {
        let evens = head.iter().step_by(2);
        let odds = head.iter().skip(1).step_by(2);
        evens.chain(odds).flat_map(|row| row.to_vec()).collect()
    };
    rows.chunks_exact(head_dim).flat_map(head).collect()
}

/// Values of a quantized matrix of the output, from its words, scales and biases.
pub(super) fn affine_values(tensors: &SafeTensors<'_>, module: &str, bits: usize) -> Vec<f32> {
    let part = |part: &str| tensors.tensor(&format!("{module}.{part}")).unwrap();
    let (scales, biases) = (floats(part("scales").data()), floats(part("biases").data()));
    let words = part("weight");
    assert_eq!(words.dtype(), Dtype::U32);
    let bit = |at: usize| u32::from(words.data()[at / 8] >> (at % 8) & 1);
    let level = |at: usize| (0..bits).map(|place| bit(at * bits + place) << place).sum::<u32>();
    (0..words.data().len() * 8 / bits)
        .map(|at| scales[at / 32] * level(at) as f32 + biases[at / 32])
        .collect()
}

#[test]
fn a_float32_folder_holds_the_values_the_blocks_stand_for() {
    let mut file = File::tiny_llama();
    let converted = converted(&file, Target::Float32);
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let mut found = |name: &str, source: &str| {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        (floats(tensor.data()), file.tensor(source).data.clone())
    };

    let (values, source) = found("model.embed_tokens.weight", "token_embd.weight");
    assert_eq!(values, q8_0_values(&source));
    let (values, source) = found("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight");
    assert_eq!(values, q4_1_values(&source));
    let (values, source) = found("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight");
    assert_eq!(values, deinterleaved(&q4_1_values(&source), 8, 32));
    let (values, source) = found("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight");
    assert_eq!(values, deinterleaved(&q4_1_values(&source), 8, 32));
    let (values, source) = found("model.norm.weight", "output_norm.weight");
    assert_eq!(values, floats(&source));
    let (values, source) = found("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight");
    assert_eq!(
        values,
        (0..source.len() / 2)
            .map(|at| half_at(&source, 2 * at))
            .collect::<Vec<_>>()
    );
    assert_eq!(tensors.names().len(), 11, "tied head: no lm_head");
}

#[test]
fn a_quantized_folder_keeps_every_value_bit_for_bit() {
    let mut file = File::tiny_llama();
    let converted = converted(&file, Target::Quantized);
    let weights = converted.weights();
    let tensors = SafeTensors::deserialize(&weights).unwrap();

    let source = file.tensor("token_embd.weight").data.clone();
    assert_eq!(affine_values(&tensors, "model.embed_tokens", 8), q8_0_values(&source));
    let source = file.tensor("blk.0.ffn_down.weight").data.clone();
    assert_eq!(
        affine_values(&tensors, "model.layers.0.mlp.down_proj", 4),
        q4_1_values(&source)
    );
    let source = file.tensor("blk.0.attn_q.weight").data.clone();
    let expected = deinterleaved(&q4_1_values(&source), 8, 32);
    assert_eq!(affine_values(&tensors, "model.layers.0.self_attn.q_proj", 4), expected);

    let halves = tensors.tensor("model.layers.0.self_attn.o_proj.weight").unwrap();
    assert_eq!(halves.dtype(), Dtype::F16);
    assert_eq!(halves.data(), file.tensor("blk.0.attn_output.weight").data);
}

#[test]
fn every_tensor_begins_at_a_multiple_of_64_bytes() {
    // The key matrix' scales take 8 rows times 4 bytes, so padding is needed.
    for target in [Target::Float32, Target::Quantized] {
        let weights = converted(&File::tiny_llama(), target).weights();
        let tensors = SafeTensors::deserialize(&weights).unwrap();
        for (name, tensor) in tensors
            .tensors()
            .iter()
            .filter(|(name, _)| !name.starts_with("__padding_"))
        {
            let offset = tensor.data().as_ptr().addr() - weights.as_ptr().addr();
            assert_eq!(offset % 64, 0, "{name} of {target}");
        }
        let paddings = tensors
            .names()
            .iter()
            .filter(|name| name.starts_with("__padding_"))
            .count();
        assert_eq!(paddings > 0, target == Target::Quantized);
    }
}

#[test]
fn the_config_says_what_the_metadata_said() {
    let config = converted(&File::tiny_llama(), Target::Quantized).json("config.json");
    for (field, value) in [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("hidden_size", json!(32)),
        ("intermediate_size", json!(64)),
        ("num_hidden_layers", json!(1)),
        ("num_attention_heads", json!(4)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(8)),
        ("rms_norm_eps", json!(1e-5)),
        ("rope_theta", json!(10_000.0)),
        ("max_position_embeddings", json!(128)),
        ("vocab_size", json!(262)),
        ("tie_word_embeddings", json!(true)),
        ("bos_token_id", json!(0)),
        ("eos_token_id", json!(1)),
        ("pad_token_id", json!(null)),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    let quantization = json!({
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
        "model.layers.0.self_attn.o_proj": false,
    });
    assert_eq!(config["quantization"], quantization);
    let config = converted(&File::tiny_llama(), Target::Float32).json("config.json");
    assert_eq!(
        (&config["quantization"], &config["torch_dtype"]),
        (&Json::Null, &json!("float32"))
    );
}

#[test]
fn an_untied_head_is_written() {
    let mut file = File::tiny_llama();
    file.add_tensor("output.weight", vec![32, 262], F32);
    let converted = converted(&file, Target::Float32);
    let weights = converted.weights();
    assert!(
        SafeTensors::deserialize(&weights)
            .unwrap()
            .tensor("lm_head.weight")
            .is_ok()
    );
    assert_eq!(converted.json("config.json")["tie_word_embeddings"], json!(false));
}

#[test]
fn a_float16_model_stays_float16() {
    let mut file = File::tiny_llama();
    let names: Vec<_> = file
        .tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.dimensions.clone()))
        .collect();
    file.tensors.clear();
    for (name, dimensions) in names {
        let type_id = if dimensions.len() == 1 { F32 } else { F16 };
        file.add_tensor(&name, dimensions, type_id);
    }
    let config = converted(&file, Target::Quantized).json("config.json");
    assert_eq!(
        (&config["quantization"], &config["torch_dtype"]),
        (&Json::Null, &json!("float16"))
    );
}

#[test]
fn several_end_tokens_are_all_listed() {
    let file = File::tiny_llama()
        .with("tokenizer.ggml.eot_token_id", Meta::U32(0))
        .with("tokenizer.ggml.eom_token_id", Meta::U32(1));
    let generation = converted(&file, Target::Float32).json("generation_config.json");
    assert_eq!(generation["eos_token_id"], json!([1, 0]));
}

#[test]
fn the_tokenizer_is_rebuilt_with_its_added_tokens() {
    let file = File::tiny_llama().with("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    let converted = converted(&file, Target::Float32);
    let tokenizer = converted.json("tokenizer.json");
    let flags: Vec<_> = tokenizer["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| (&token["content"], &token["special"]))
        .collect();
    assert_eq!(
        flags,
        [
            (&json!("<|start|>"), &json!(true)),
            (&json!("<|end|>"), &json!(true)),
            (&json!("<tool>"), &json!(false))
        ]
    );
    assert_eq!(
        tokenizer["model"]["merges"],
        json!([["h", "e"], ["l", "l"], ["he", "ll"]])
    );
    assert_eq!(tokenizer["model"]["vocab"]["hell"], json!(261));
    assert_eq!(
        tokenizer["post_processor"]["single"][0],
        json!({"SpecialToken": {"id": "<|start|>", "type_id": 0}})
    );
    let config = converted.json("tokenizer_config.json");
    assert_eq!(config["chat_template"], json!("{{ messages[0].content }}"));
    assert_eq!(
        (&config["bos_token"], &config["eos_token"]),
        (&json!("<|start|>"), &json!("<|end|>"))
    );
}

#[test]
fn the_import_record_names_source_and_exactness() {
    let converted = converted(&File::tiny_llama(), Target::Quantized);
    let record = converted.json("import.json");
    assert_eq!(record["source"]["sha256"], json!(converted.summary.source_sha256));
    assert_eq!(converted.summary.source_sha256.len(), 64);
    let tensors = record["tensors"].as_array().unwrap();
    assert_eq!(
        (
            tensors.len(),
            converted.summary.tensors,
            converted.summary.exact_tensors
        ),
        (11, 11, 11)
    );
    let embedding = json!({"source": "token_embd.weight", "source_type": "Q8_0", "name": "model.embed_tokens.weight", "stored_as": "affine, 8 bits, groups of 32", "exact": true});
    assert_eq!(tensors[0], embedding);
}

#[test]
fn progress_runs_through_every_stage_to_its_end() {
    let converted = converted(&File::tiny_llama(), Target::Float32);
    let size = std::fs::metadata(converted.path("model.safetensors")).unwrap().len();
    assert_eq!(converted.summary.bytes, size);
    for stage in [Stage::Hashing, Stage::Tensors, Stage::Publishing] {
        let last = converted.progress.iter().rfind(|step| step.stage == stage).unwrap();
        assert_eq!(last.done_bytes, last.total_bytes, "{stage:?}");
    }
}

#[test]
fn mapped_weights_are_read_only_on_disk() {
    let converted = converted(&File::tiny_llama(), Target::Float32);
    let read_only = |name: &str| is_read_only(&converted.path(name));
    assert!(read_only("model.safetensors"));
    assert!(!read_only("config.json"));
}

fn is_read_only(path: &Path) -> bool {
    std::fs::metadata(path).unwrap().permissions().readonly()
}
