//! Quantised weights compute what the weights that they stand for compute.

use std::collections::HashMap;

use mlx_rs::Array;
use mlx_rs::ops::{dequantize, quantize};
use safetensors::Dtype;
use serde_json::json;

use super::{MODELS, whole};
use crate::testing::{KERNELS, ModelDir, Rig, Run, Tensor, assert_close, expected, one_at_a_time};
use crate::{Activations, Kernels, LoadOptions};

/// The products are summed in another order and scales are applied to sums rather than to weights. What rounding activations to int8
/// costs is measured where the kernels are tested.
const TOLERANCE: f32 = 1e-3;

fn floats(tensor: &Tensor) -> Array {
    let values: Vec<f32> = tensor
        .data
        .as_chunks::<4>()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes)
        .collect();
    let shape: Vec<i32> = tensor
        .shape
        .iter()
        .map(|length| i32::try_from(*length).unwrap())
        .collect();
    Array::from_slice(&values, &shape)
}

fn tensor(array: &Array) -> Tensor {
    let array = array.contiguous().unwrap();
    let shape = array
        .shape()
        .iter()
        .map(|length| usize::try_from(*length).unwrap())
        .collect();
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

/// A fixture quantised, and dense with the weights that this stands for. `None` where groups do not divide the widths.
fn quantised_and_dense(name: &str, group_size: i32, bits: i32) -> Option<(ModelDir, ModelDir)> {
    let _alone = one_at_a_time();
    let original = ModelDir::fixture(name);
    let group = usize::try_from(group_size).unwrap();
    let matrices: HashMap<_, _> = original
        .tensors
        .iter()
        .filter(|(name, tensor)| tensor.shape.len() > 1 && name.ends_with(".weight"))
        .collect();
    if matrices.values().any(|tensor| !tensor.shape[1].is_multiple_of(group)) {
        return None;
    }
    let (mut quantised, mut dense) = (ModelDir::fixture(name), ModelDir::fixture(name));
    quantised.config["quantization"] = json!({"group_size": group_size, "bits": bits});
    for (name, original) in matrices {
        let layer = name.strip_suffix(".weight").unwrap();
        let (weight, scales, biases) = quantize(floats(original), group_size, bits).unwrap();
        let whole = dequantize(&weight, &scales, &biases, group_size, bits).unwrap();
        dense.tensors.insert(name.clone(), tensor(&whole));
        quantised.tensors.insert(name.clone(), tensor(&weight));
        quantised.tensors.insert(format!("{layer}.scales"), tensor(&scales));
        quantised.tensors.insert(format!("{layer}.biases"), tensor(&biases));
    }
    Some((quantised, dense))
}

/// Of a whole prompt, then of the same in chunks and single tokens.
fn logits(model: &ModelDir, name: &str, kernels: Kernels) -> [Vec<Vec<f32>>; 2] {
    let (ids, _) = expected(name);
    let options = LoadOptions {
        kernels,
        activations: Activations::Float32,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(model.write().path(), &options);
    rig.acquire(0, 0);
    rig.acquire(1, 0);
    let prefilled = rig.logits(&whole(&ids)).remove(0);
    let pieces = [0..11, 11..31]
        .into_iter()
        .chain((31..40).map(|start| start..start + 1));
    let stepped = pieces.flat_map(|piece| {
        let start = piece.start;
        rig.logits(&[Run {
            slot: 1,
            start,
            ids: &ids[piece],
        }])
        .remove(0)
    });
    let stepped = stepped.collect();
    [prefilled, stepped]
}

#[test]
fn quantised_weights_compute_what_they_stand_for() {
    let mut compared = 0;
    // Every model in both widths and all group sizes, every form with several models.
    let forms = [[(32, 4), (64, 8), (128, 4)], [(32, 8), (64, 4), (128, 8)]];
    let turns = MODELS.into_iter().zip(forms.into_iter().cycle());
    for (name, (group_size, bits)) in turns.flat_map(|(name, forms)| forms.map(|form| (name, form))) {
        let Some((quantised, dense)) = quantised_and_dense(name, group_size, bits) else {
            continue;
        };
        let [expected, _] = logits(&dense, name, Kernels::Auto);
        for kernels in KERNELS {
            println!("{name}, {bits} bits in groups of {group_size}, {kernels:?}");
            for found in logits(&quantised, name, kernels) {
                assert_close(&found, &expected, TOLERANCE);
            }
            compared += 1;
        }
    }
    assert!(compared >= 12, "no more than {compared}");
}

/// As the importer writes experts of files that keep some parts with more bits.
#[test]
fn experts_in_one_tensor_may_have_a_form_of_their_own() {
    let (mut quantised, mut dense) = quantised_and_dense("qwen3-moe-normed", 32, 4).unwrap();
    let (others, others_dense) = quantised_and_dense("qwen3-moe-normed", 64, 8).unwrap();
    for layer in [0, 2] {
        let name = |expert, tensor| format!("model.layers.{layer}.mlp.experts.{expert}.down_proj.{tensor}");
        let all = format!("model.layers.{layer}.mlp.switch_mlp.down_proj");
        quantised.config["quantization"][&all] = json!({"group_size": 64, "bits": 8});
        for tensor in ["weight", "scales", "biases"] {
            let parts: Vec<_> = (0..5)
                .map(|expert| {
                    quantised.tensors.remove(&name(expert, tensor));
                    &others.tensors[&name(expert, tensor)]
                })
                .collect();
            let stacked = Tensor {
                dtype: parts[0].dtype,
                shape: [&[5], &parts[0].shape[..]].concat(),
                data: parts.iter().flat_map(|part| part.data.clone()).collect(),
            };
            quantised.tensors.insert(format!("{all}.{tensor}"), stacked);
        }
        for expert in 0..5 {
            let weight = name(expert, "weight");
            dense
                .tensors
                .insert(weight.clone(), others_dense.tensors[&weight].clone());
        }
    }
    let [expected, _] = logits(&dense, "qwen3-moe-normed", Kernels::Auto);
    for found in KERNELS
        .into_iter()
        .flat_map(|kernels| logits(&quantised, "qwen3-moe-normed", kernels))
    {
        assert_close(&found, &expected, TOLERANCE);
    }
}
