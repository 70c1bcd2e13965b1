//! Every tensor type, against values that another implementation found in the same bytes; `fixtures/make_types.py` has
//! written both.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::json;

use super::conversion::{affine_values, converted, floats};
use super::file::{BF16, F16, F32, File, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::header::Tensor;
use crate::quantized::pack;
use crate::tensor_type::{Affine, Codec, Groups, RequantizationError, TensorType};
use crate::{Gguf, Target};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Runs `check` with every tensor of the fixture, its bytes, and the values the reference finds.
fn for_every_type(mut check: impl FnMut(&Tensor, &[u8], &[f32])) {
    let gguf = Gguf::open(&fixture("types.gguf")).unwrap();
    let expected = std::fs::read(fixture("types.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(gguf.tensors().len(), 12);
    for tensor in gguf.tensors() {
        let values = floats(expected.tensor(tensor.name()).unwrap().data());
        check(tensor, gguf.data(tensor), &values);
    }
}

/// What MLX computes from packed levels, scales and biases: checked against MLX itself when this was written.
fn values_of_groups(tensor: &Tensor, affine: Affine, data: &[u8]) -> Vec<f32> {
    let tensor_type = tensor.tensor_type();
    let mut groups = Groups::of(tensor_type, affine);
    let mut values = Vec::new();
    for block in data.chunks_exact(tensor_type.block_bytes) {
        (affine.unpack)(block, &mut groups);
        let mut packed = Vec::new();
        pack(&groups.levels, affine.bits, &mut packed);
        let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
        for at in 0..tensor_type.block_len {
            let level: u32 = (0..affine.bits)
                .map(|place| bit(at * affine.bits + place) << place)
                .sum();
            let group = at / affine.group_len;
            values.push(groups.scales[group] * level as f32 + groups.biases[group]);
        }
    }
    values
}

#[test]
fn floats_are_the_references_bit_for_bit() {
    for_every_type(|tensor, data, expected| {
        let mut values = vec![f32::NAN; expected.len()];
        let tensor_type = tensor.tensor_type();
        tensor_type.dequantize(tensor_type.codec.unwrap(), data, &mut values);
        assert_eq!(values, expected, "{}", tensor.name());
    });
}

#[test]
fn exact_types_keep_every_value_in_groups_too() {
    let mut seen = Vec::new();
    for_every_type(|tensor, data, expected| {
        if let Some(Codec::Affine(affine)) = tensor.tensor_type().codec {
            assert_eq!(values_of_groups(tensor, affine, data), expected, "{}", tensor.name());
            seen.push(tensor.name().to_owned());
        }
    });
    assert_eq!(seen, ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"]);
}

#[test]
fn requantized_values_are_off_by_no_more_than_is_said() {
    let mut errors = Vec::new();
    for_every_type(|tensor, data, expected| {
        let Some(Codec::Requantized(requantized)) = tensor.tensor_type().codec else {
            return;
        };
        let error = RequantizationError::measure(tensor.tensor_type(), requantized, data);
        let stored = values_of_groups(tensor, requantized.affine, data);
        let differences = stored
            .iter()
            .zip(expected)
            .map(|(stored, value)| f64::from((stored - value).abs()));
        let largest = differences.fold(0.0, f64::max);
        assert!(largest <= error.max_error, "{largest} of {}: {error:?}", tensor.name());
        // Half a step of a group's range, which is at most twice the largest value.
        assert!(error.max_error <= error.largest_value / 255.0 * 1.0001, "{error:?}");
        assert!(error.rms_error <= error.max_error, "{error:?}");
        errors.push((tensor.name().to_owned(), error.is_zero()));
    });
    assert_eq!(errors, [("Q6_K".to_owned(), false), ("Q6_K_paired".to_owned(), true)]);
}

#[test]
fn a_model_of_any_type_is_the_same_in_floats_and_in_groups() {
    for (type_id, bits) in [
        (Q4_0, 4),
        (Q4_1, 4),
        (Q5_0, 5),
        (Q5_1, 5),
        (Q8_0, 8),
        (Q4_K, 4),
        (Q5_K, 5),
        (Q6_K, 8),
    ] {
        let file = File::llama_of(type_id);
        let (floats_folder, groups_folder) = (converted(&file, Target::Float32), converted(&file, Target::Quantized));
        let (all_floats, all_groups) = (floats_folder.weights(), groups_folder.weights());
        let (all_floats, all_groups) = (
            SafeTensors::deserialize(&all_floats).unwrap(),
            SafeTensors::deserialize(&all_groups).unwrap(),
        );
        assert_eq!(
            groups_folder.json("config.json")["quantization"],
            json!({"group_size": 32, "bits": bits})
        );
        assert_eq!(
            (floats_folder.summary.exact_tensors, floats_folder.summary.max_error),
            (11, 0.0)
        );
        let bound = groups_folder.summary.max_error;
        assert_eq!(bound > 0.0, type_id == Q6_K);
        for module in [
            "model.embed_tokens",
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.down_proj",
        ] {
            let exact = floats(all_floats.tensor(&format!("{module}.weight")).unwrap().data());
            let stored = affine_values(&all_groups, module, bits);
            assert_eq!(stored.len(), exact.len());
            let close = |(stored, exact): (&f32, &f32)| f64::from((stored - exact).abs()) <= bound;
            assert!(stored.iter().zip(&exact).all(close), "{module} of type {type_id}");
        }
    }
}

#[test]
fn the_import_record_says_how_far_off_a_requantized_tensor_is() {
    let converted = converted(&File::llama_of(Q6_K), Target::Quantized);
    let record = converted.json("import.json");
    let tensor = &record["tensors"][0];
    assert_eq!(
        (&tensor["exact"], &tensor["source_type"]),
        (&json!(false), &json!("Q6_K"))
    );
    let errors = record["tensors"].as_array().unwrap().iter();
    let largest = errors
        .filter_map(|tensor| tensor["error"]["max_error"].as_f64())
        .fold(0.0, f64::max);
    assert!(largest > 0.0);
    assert_eq!(largest, converted.summary.max_error);
    assert_eq!(record["tensors"][1]["error"], json!(null), "a norm stays as it is");
    assert_eq!((converted.summary.tensors, converted.summary.exact_tensors), (11, 3));
}

#[test]
fn half_width_floats_are_kept_or_widened() {
    for (type_id, name, dtype) in [
        (F16, "float16", safetensors::Dtype::F16),
        (BF16, "bfloat16", safetensors::Dtype::BF16),
        (F32, "float32", safetensors::Dtype::F32),
    ] {
        let mut file = File::llama_of(type_id);
        let kept = converted(&file, Target::Quantized);
        let weights = kept.weights();
        let tensors = SafeTensors::deserialize(&weights).unwrap();
        let tensor = tensors.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
        assert_eq!(tensor.dtype(), dtype);
        assert_eq!(tensor.data(), file.tensor("blk.0.ffn_up.weight").data);
        assert_eq!(kept.json("config.json")["torch_dtype"], json!(name));
        let widened = converted(&file, Target::Float32);
        assert_eq!(widened.json("config.json")["torch_dtype"], json!("float32"));
        assert_eq!(widened.summary.exact_tensors, 11);
    }
}

/// The cells of the guide's table rows whose first cell is a type's name.
fn rows_of_the_guide() -> Vec<Vec<String>> {
    let guide = include_str!("../../../../docs/models.md");
    let rows = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells.filter(|cells| TensorType::by_name(&cells[0]).is_some()).collect()
}

#[test]
fn the_guide_lists_what_becomes_of_every_type() {
    let rows = rows_of_the_guide();
    let names: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    let supported = TensorType::supported_names();
    let (mut found, mut expected) = (names, supported.split(", ").collect::<Vec<_>>());
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for row in rows {
        let groups = |affine: Affine| format!("{} bits, groups of {}", affine.bits, affine.group_len);
        let quantized = match TensorType::by_name(&row[0]).unwrap().codec.unwrap() {
            Codec::Dense(dense) => format!("{}, exact", dense.name()),
            Codec::Affine(affine) => format!("{}, exact", groups(affine)),
            Codec::Requantized(requantized) => format!("{}, requantized", groups(requantized.affine)),
        };
        assert_eq!(row[1..], ["exact".to_owned(), quantized], "{}", row[0]);
    }
}
