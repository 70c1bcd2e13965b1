use mlx_rs::Array;
use mlx_rs::ops::{dequantize, quantize};
use safetensors::Dtype;
use serde_json::json;

use crate::testing::{KERNELS, ModelDir, Rig, Run, Tensor, assert_close, expected, one_at_a_time};
use crate::{Activations, Kernels, LoadOptions, QuantizationInfo, load};

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
pub(crate) struct Form {
    pub(crate) group_size: i32,
    pub(crate) bits: i32,
    /// Of the embedding, where it differs.
    pub(crate) embedding_bits: i32,
}

/// The tied fixture quantised, and dense with the weights that this stands for.
pub(crate) fn quantised_and_dense(form: Form) -> (ModelDir, ModelDir) {
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

/// Logits of every position of the fixture's reference text.
fn logits(model: &ModelDir, kernels: Kernels, activations: Activations) -> Vec<Vec<f32>> {
    let options = LoadOptions {
        kernels,
        activations,
        ..LoadOptions::default()
    };
    reference_logits(&mut Rig::new(model.write().path(), &options))
}

/// Logits of every position of the fixture's reference text.
pub(crate) fn reference_logits(rig: &mut Rig) -> Vec<Vec<f32>> {
    let (ids, _) = expected("llama-tied");
    rig.acquire(0, 0);
    let run = Run {
        slot: 0,
        start: 0,
        ids: &ids,
    };
    rig.logits(&[run]).remove(0)
}

const FORMS: [Form; 4] = [form(32, 4, 8), form(64, 4, 4), form(32, 8, 8), form(64, 8, 4)];

const fn form(group_size: i32, bits: i32, embedding_bits: i32) -> Form {
    Form {
        group_size,
        bits,
        embedding_bits,
    }
}

#[test]
fn quantised_weights_compute_what_they_stand_for() {
    for (form, kernels) in FORMS.into_iter().flat_map(|form| KERNELS.map(|k| (form, k))) {
        let (quantised, dense) = quantised_and_dense(form);
        let found = logits(&quantised, kernels, Activations::Float32);
        assert_close(&found, &logits(&dense, kernels, Activations::Float32), 3e-4);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn rounded_activations_change_logits_by_little() {
    for form in FORMS {
        let (quantised, dense) = quantised_and_dense(form);
        let exact = logits(&dense, Kernels::Auto, Activations::Float32);
        let rounded = logits(&quantised, Kernels::Auto, Activations::Int8);
        let mean = |row: &[f32]| row.iter().sum::<f32>() / row.len() as f32;
        let size = |row: &[f32]| mean(&row.iter().map(|value| value * value).collect::<Vec<_>>()).sqrt();
        let mut differs = false;
        for (exact, rounded) in exact.iter().zip(&rounded) {
            let changes: Vec<_> = exact
                .iter()
                .zip(rounded)
                .map(|(exact, rounded)| exact - rounded)
                .collect();
            let spread: Vec<_> = exact.iter().map(|value| value - mean(exact)).collect();
            let (change, spread) = (size(&changes), size(&spread));
            // Narrow layers of random weights: whole models lose far less.
            assert!(change <= 0.2 * spread, "{form:?}: {change} of {spread}");
            differs |= change > 1e-5;
        }
        assert!(differs, "{form:?}: activations were not rounded");
    }
}

/// The bits of the logits of sequences that are run together in the given chunks, (slot, length) each.
#[cfg(target_os = "linux")]
fn bits(model: &ModelDir, threads: u32, steps: &[Vec<(u32, usize)>]) -> Vec<Vec<Vec<u32>>> {
    let options = LoadOptions {
        threads: Some(threads),
        max_sequences: 64,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(model.write().path(), &options);
    let name = rig.model.info().fingerprint.to_string();
    assert!(name.contains("int8") && name.ends_with("invariant"), "{name}");
    let sequences = steps.iter().flatten().map(|(slot, _)| *slot).max().unwrap() + 1;
    (0..sequences).for_each(|slot| rig.acquire(slot, 0));
    let ids = |slot: u32| {
        (0..40)
            .map(move |index| (index * 7 + slot * 13) % 51)
            .collect::<Vec<_>>()
    };
    let mut found = vec![Vec::new(); sequences as usize];
    for step in steps {
        let ids: Vec<_> = step.iter().map(|(slot, _)| ids(*slot)).collect();
        let runs: Vec<_> = step
            .iter()
            .zip(&ids)
            .map(|((slot, length), ids)| {
                let start = found[*slot as usize].len();
                Run {
                    slot: *slot,
                    start,
                    ids: &ids[start..start + length],
                }
            })
            .collect();
        for ((slot, _), logits) in step.iter().zip(rig.logits(&runs)) {
            let rows = logits
                .into_iter()
                .map(|row| row.into_iter().map(f32::to_bits).collect());
            found[*slot as usize].extend(rows);
        }
    }
    found
}

/// What the numerics class `invariant` promises.
#[test]
#[cfg(target_os = "linux")]
fn batch_chunks_and_threads_change_no_bit_of_a_quantised_models_sequence() {
    let (model, _) = quantised_and_dense(form(32, 4, 8));
    let alone: Vec<_> = (0..32)
        .map(|slot| bits(&model, 1, &[vec![(slot, 20)]]).remove(slot as usize))
        .collect();
    for (count, threads) in [(1, 2), (12, 1), (16, 2), (31, 1), (32, 2)] {
        let chunk = |length: usize| (0..count).map(|slot| (slot, length)).collect::<Vec<_>>();
        let uneven: Vec<_> = (0..count).map(|slot| (slot, 1 + slot as usize % 7)).collect();
        let mut steps = vec![chunk(9), chunk(1), uneven, chunk(1), chunk(1)];
        steps[3].reverse();
        for (sequence, alone) in bits(&model, threads, &steps).into_iter().zip(&alone) {
            assert!(
                sequence == alone[..sequence.len()],
                "{count} sequences, {threads} threads"
            );
        }
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
