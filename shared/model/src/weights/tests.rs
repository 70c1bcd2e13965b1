use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mlx_rs::Dtype as ArrayDtype;
use safetensors::Dtype;
use serde_json::json;

use super::Weights;
use crate::testing::{ModelDir, Rig, Run, Tensor, expected, one_at_a_time, serialized};
use crate::{Error, LoadOptions, load};

/// The message and its sources, as a log would show them.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn refused(write: impl FnOnce(&Path)) -> String {
    let _alone = one_at_a_time();
    let dir = ModelDir::fixture("llama-tied").write();
    write(dir.path());
    chain(&load(dir.path(), &LoadOptions::default()).unwrap_err())
}

fn refused_file(bytes: &[u8]) -> String {
    refused(|dir| fs::write(dir.join("model.safetensors"), bytes).unwrap())
}

/// A file with this header and `data` bytes of zeros.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn broken_weight_files_are_refused_with_the_reason() {
    let whole = serialized(&ModelDir::fixture("llama-tied").tensors);
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let outside = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let bad_dtype = r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#;
    let wrong_size = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#;
    let overflow = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,8]}}"#;
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let mut not_utf8 = with_header("{\"a \":1}", 0);
    not_utf8[11] = 0xff;
    let cases: [(Vec<u8>, &str); 14] = [
        (Vec::new(), "the file is empty"),
        (vec![1, 2, 3], "the file has 3 bytes"),
        (huge, "claims 9223372036854775808 bytes"),
        (whole[..whole.len() / 2].to_vec(), "header is broken"),
        (whole[..100].to_vec(), "truncated"),
        (with_header(overlapping, 12), "header is broken"),
        (with_header(outside, 4), "header is broken"),
        (with_header(outside, 12), "header is broken"),
        (with_header(bad_dtype, 8), "F33"),
        (with_header(wrong_size, 8), "header is broken"),
        (with_header(overflow, 8), "header is broken"),
        (with_header(twice, 4), "tensor a is listed twice"),
        (with_header(&deep, 0), "recursion"),
        (not_utf8, "header is broken"),
    ];
    for (bytes, words) in cases {
        let message = refused_file(&bytes);
        assert!(message.contains("model.safetensors"), "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn a_missing_directory_or_file_is_named() {
    let message = refused(|dir| fs::remove_file(dir.join("model.safetensors")).unwrap());
    assert!(
        message.contains("model.safetensors") && message.contains("cannot read"),
        "{message}"
    );
    let message = refused(|dir| fs::remove_file(dir.join("config.json")).unwrap());
    assert!(
        message.contains("config.json") && message.contains("cannot read"),
        "{message}"
    );
    let message = refused(|dir| fs::write(dir.join("config.json"), "{").unwrap());
    assert!(message.contains("config.json is not valid JSON"), "{message}");
}

#[test]
fn a_tensor_of_another_type_is_named() {
    let message = refused(|dir| {
        let mut model = ModelDir::fixture("llama-tied");
        let norm = Tensor {
            dtype: Dtype::I32,
            ..model.tensors["model.norm.weight"].clone()
        };
        model.tensors.insert("model.norm.weight".to_owned(), norm);
        fs::write(dir.join("model.safetensors"), serialized(&model.tensors)).unwrap();
    });
    assert!(
        message.contains("tensor model.norm.weight has type I32, expected is a floating-point"),
        "{message}"
    );
}

fn shards(dir: &Path, model: &ModelDir) -> [&'static str; 2] {
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut parts = [HashMap::new(), HashMap::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in model.tensors.iter().enumerate() {
        parts[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(names[index % 2]));
    }
    for (name, part) in names.iter().zip(&parts) {
        fs::write(dir.join(name), serialized(part)).unwrap();
    }
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    names
}

#[test]
fn shards_are_one_model() {
    let (ids, logits) = expected("llama-tied");
    let model = ModelDir::fixture("llama-tied");
    let dir = model.write();
    shards(dir.path(), &model);
    let mut rig = Rig::new(dir.path(), &LoadOptions::default());
    rig.acquire(0, 0);
    let run = Run {
        slot: 0,
        start: 0,
        ids: &ids,
    };
    crate::testing::assert_close(&rig.logits(&[run])[0], &logits, 2e-4);
}

#[test]
fn broken_shards_are_refused() {
    let model = ModelDir::fixture("llama-tied");
    let message = refused(|dir| {
        let [first, _] = shards(dir, &model);
        fs::remove_file(dir.join(first)).unwrap();
    });
    assert!(message.contains("model-00001-of-00002.safetensors"), "{message}");
    let message = refused(|dir| {
        let [first, second] = shards(dir, &model);
        fs::copy(dir.join(first), dir.join(second)).unwrap();
    });
    assert!(message.contains("is in another weight file too"), "{message}");
    let message = refused(|dir| {
        shards(dir, &model);
        let index = json!({"weight_map": {"a": "../secret.safetensors"}}).to_string();
        fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(message.contains("same directory"), "{message}");
    let message = refused(|dir| {
        shards(dir, &model);
        fs::write(dir.join("model.safetensors.index.json"), "{}").unwrap();
    });
    assert!(message.contains("no weight_map"), "{message}");
}

/// One tensor whose data starts at a multiple of 64 bytes, and one that does not.
fn aligned_and_not(dir: &Path) {
    let entry = |start: usize, length: usize| json!({"dtype": "F32", "shape": [length], "data_offsets": [start, start + 4 * length]});
    let mut header = json!({"aligned": entry(0, 33), "askew": entry(132, 7)}).to_string();
    while !(header.len() + 8).is_multiple_of(64) {
        header.push(' ');
    }
    let mut bytes = with_header(&header, 0);
    for value in 0..40_u8 {
        bytes.extend_from_slice(&f32::from(value).to_le_bytes());
    }
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn aligned_tensors_are_used_in_place_and_others_copied() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    aligned_and_not(dir.path());
    let mut weights = Weights::open(dir.path(), true).unwrap();
    let aligned = weights.float("aligned", &[33]).unwrap();
    let askew = weights.float("askew", &[7]).unwrap();
    let map = weights.files[0].map().as_ptr_range();
    assert!(map.contains(&aligned.as_slice::<f32>().as_ptr().cast()));
    assert!(!map.contains(&askew.as_slice::<f32>().as_ptr().cast()));
    assert_eq!(aligned.as_slice::<f32>()[32], 32.0);
    assert_eq!(askew.as_slice::<f32>(), [33.0, 34.0, 35.0, 36.0, 37.0, 38.0, 39.0]);
    let (footprint, adopted) = weights.finish();
    assert_eq!((footprint.mapped_bytes, footprint.copied_bytes), (132, 28));
    drop(aligned);
    drop(adopted);
}

#[test]
fn converted_tensors_count_as_copied() {
    let _alone = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    aligned_and_not(dir.path());
    let mut weights = Weights::open(dir.path(), false).unwrap();
    assert_eq!(
        weights.dense("aligned", &[33], ArrayDtype::Bfloat16).unwrap().dtype(),
        ArrayDtype::Bfloat16
    );
    assert_eq!(weights.unused(), ["askew"]);
    let (footprint, _) = weights.finish();
    assert_eq!((footprint.mapped_bytes, footprint.copied_bytes), (0, 132 + 66));
}

#[test]
#[cfg(target_os = "linux")]
fn the_mapping_goes_when_the_model_does() {
    let mapped = |dir: &Path| {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.contains(dir.to_str().unwrap())
    };
    let dir = ModelDir::fixture("llama-tied").write();
    let rig = Rig::new(dir.path(), &LoadOptions::default());
    assert!(rig.model.info().mapped_bytes > 0);
    assert!(mapped(dir.path()));
    drop(rig);
    assert!(!mapped(dir.path()));
}
