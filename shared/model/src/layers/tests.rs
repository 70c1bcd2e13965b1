use mlx_rs::Array;
use mlx_rs::ops::{dequantize, quantize};
use safetensors::Dtype;
use serde_json::json;

use crate::testing::{KERNELS, ModelDir, Rig, Run, Tensor, assert_close, expected, one_at_a_time};
use crate::{Kernels, LoadOptions, QuantizationInfo, load};

fn floats(tensor: &Tensor) -> Array {
    let values: Vec<f32> = tensor
        .data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let shape: Vec<i32> = tensor
        .shape
        .iter()
        .map(|length| i32::try_from(*length).unwrap())
        .collect();
    Array::from_slice(&values, &shape)
}

fn tensor(array: &Array) -> Tensor {
    let shape = array
        .shape()
        .iter()
        .map(|length| usize::try_from(*length).unwrap())
        .collect();
    let array = array.contiguous().unwrap();
    let (dtype, data) = match array.dtype() {
        mlx_rs::Dtype::Uint32 => {
            let words = array.as_slice::<u32>().iter();
            (Dtype::U32, words.flat_map(|word| word.to_le_bytes()).collect())
        }
        _ => {
            let words = array.as_slice::<f32>().iter();
            (Dtype::F32, words.flat_map(|word| word.to_le_bytes()).collect())
        }
    };
    Tensor { dtype, shape, data }
}

#[derive(Debug, Clone, Copy)]
struct Form {
    group_size: i32,
    bits: i32,
    /// Of the embedding, where it differs.
    embedding_bits: i32,
}

/// The tied fixture quantised, and dense with the weights that this stands for.
fn quantised_and_dense(form: Form) -> (ModelDir, ModelDir) {
    let _alone = one_at_a_time();
    let mut quantised = ModelDir::fixture("llama-tied");
    let mut dense = ModelDir::fixture("llama-tied");
    let group_size = form.group_size;
    quantised.config["quantization"] = json!({
        "group_size": group_size, "bits": form.bits,
        "model.embed_tokens": {"group_size": group_size, "bits": form.embedding_bits},
        "model.layers.1.mlp.up_proj": false,
    });
    for (name, original) in ModelDir::fixture("llama-tied").tensors {
        let Some(layer) = name.strip_suffix(".weight").filter(|layer| !layer.contains("norm")) else {
            continue;
        };
        if layer == "model.layers.1.mlp.up_proj" {
            continue;
        }
        let bits = if layer == "model.embed_tokens" {
            form.embedding_bits
        } else {
            form.bits
        };
        let (weight, scales, biases) = quantize(floats(&original), group_size, bits).unwrap();
        let whole = dequantize(&weight, &scales, &biases, group_size, bits).unwrap();
        dense.tensors.insert(name.clone(), tensor(&whole));
        quantised.tensors.insert(name.clone(), tensor(&weight));
        quantised.tensors.insert(format!("{layer}.scales"), tensor(&scales));
        quantised.tensors.insert(format!("{layer}.biases"), tensor(&biases));
    }
    (quantised, dense)
}

fn logits(model: &ModelDir, kernels: Kernels) -> Vec<Vec<f32>> {
    let (ids, _) = expected("llama-tied");
    let options = LoadOptions {
        kernels,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(model.write().path(), &options);
    rig.acquire(0, 0);
    let run = Run {
        slot: 0,
        start: 0,
        ids: &ids,
    };
    rig.logits(&[run]).remove(0)
}

#[test]
fn quantised_weights_compute_what_they_stand_for() {
    let forms = [(32, 4, 8), (64, 4, 4), (32, 8, 8), (64, 8, 4)];
    for ((group_size, bits, embedding_bits), kernels) in forms.into_iter().flat_map(|form| KERNELS.map(|k| (form, k))) {
        let form = Form {
            group_size,
            bits,
            embedding_bits,
        };
        let (quantised, dense) = quantised_and_dense(form);
        assert_close(&logits(&quantised, kernels), &logits(&dense, kernels), 3e-4);
    }
}

#[test]
fn the_report_tells_how_weights_are_packed() {
    let form = Form {
        group_size: 32,
        bits: 4,
        embedding_bits: 8,
    };
    let (quantised, _) = quantised_and_dense(form);
    let rig = Rig::new(quantised.write().path(), &LoadOptions::default());
    let info = rig.model.info();
    let packed = QuantizationInfo {
        bits: 4,
        group_size: 32,
        overrides: 2,
    };
    assert_eq!(info.quantization, Some(packed));
    assert_eq!(info.parameters, 104_832);
}

#[test]
fn scales_that_the_configuration_does_not_mention_are_refused() {
    let form = Form {
        group_size: 32,
        bits: 4,
        embedding_bits: 8,
    };
    let (mut quantised, _) = quantised_and_dense(form);
    quantised.config["quantization"]["model.embed_tokens"] = json!(false);
    let _alone = one_at_a_time();
    let message = load(quantised.write().path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("model.embed_tokens.scales is there"), "{message}");
}

#[test]
fn bits_that_do_not_fit_the_packed_weights_are_refused() {
    let form = Form {
        group_size: 32,
        bits: 4,
        embedding_bits: 4,
    };
    let (mut quantised, _) = quantised_and_dense(form);
    quantised.config["quantization"]["bits"] = json!(8);
    let _alone = one_at_a_time();
    let message = load(quantised.write().path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("has shape [128, 8], config.json calls for [128, 16]"),
        "{message}"
    );
}
