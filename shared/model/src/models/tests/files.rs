//! Weights in several files, and experts in one tensor.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde_json::json;

use super::{TOLERANCE, whole};
use crate::testing::{KERNELS, ModelDir, Rig, Tensor, assert_close, expected, one_at_a_time, serialized};
use crate::{Kernels, LoadOptions};

fn assert_computes(name: &str, dir: &std::path::Path, kernels: Kernels) {
    let (ids, logits) = expected(name);
    let options = LoadOptions {
        kernels,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(dir, &options);
    rig.acquire(0, 0);
    assert_close(&rig.logits(&whole(&ids))[0], &logits, TOLERANCE);
}

#[test]
fn weights_may_lie_in_several_files() {
    for name in ["qwen3-tied", "qwen3-moe-raw"] {
        let model = ModelDir::fixture(name);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), model.config.to_string()).unwrap();
        let mut shards: [HashMap<String, Tensor>; 3] = Default::default();
        let mut weight_map = BTreeMap::new();
        for (index, (tensor, value)) in BTreeMap::from_iter(model.tensors).into_iter().enumerate() {
            weight_map.insert(tensor.clone(), format!("model-{}.safetensors", index % 3));
            shards[index % 3].insert(tensor, value);
        }
        for (index, shard) in shards.iter().enumerate() {
            fs::write(dir.path().join(format!("model-{index}.safetensors")), serialized(shard)).unwrap();
        }
        let index = json!({"weight_map": weight_map}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        assert_computes(name, dir.path(), Kernels::Auto);
    }
}

/// As mlx-lm's converter writes them.
#[test]
fn experts_may_lie_in_one_tensor() {
    let parts = [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];
    for (name, block, experts) in [
        ("qwen3-moe-normed", "mlp", 5),
        ("mixtral-windowed", "block_sparse_moe", 4),
    ] {
        let mut model = ModelDir::fixture(name);
        let mut stacked = 0;
        for layer in 0..model.config["num_hidden_layers"].as_u64().unwrap() {
            for (part, other) in parts {
                let part_of = |expert| format!("model.layers.{layer}.{block}.experts.{expert}");
                let mut take = |expert| {
                    let name = part_of(expert);
                    let taken = model.tensors.remove(&format!("{name}.{part}.weight"));
                    taken.or_else(|| model.tensors.remove(&format!("{name}.{other}.weight")))
                };
                let Some(all) = (0..experts).map(&mut take).collect::<Option<Vec<_>>>() else {
                    continue;
                };
                let tensor = Tensor {
                    dtype: all[0].dtype,
                    shape: [&[all.len()], &all[0].shape[..]].concat(),
                    data: all.into_iter().flat_map(|tensor| tensor.data).collect(),
                };
                let name = format!("model.layers.{layer}.{block}.switch_mlp.{part}.weight");
                model.tensors.insert(name, tensor);
                stacked += 1;
            }
        }
        assert_eq!(stacked, 6, "{name}");
        for kernels in KERNELS {
            assert_computes(name, model.write().path(), kernels);
        }
    }
}

#[test]
fn a_decoder_may_lie_among_other_parts() {
    let mut model = ModelDir::fixture("gemma3-tied");
    let text = model.config.take();
    model.config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [2, 5],
        "text_config": text, "vision_config": {"hidden_size": 8},
    });
    let tensors = std::mem::take(&mut model.tensors).into_iter();
    model.tensors = tensors
        .map(|(name, tensor)| (format!("language_model.{name}"), tensor))
        .collect();
    let vision = model.tensors["language_model.model.norm.weight"].clone();
    model.tensors.insert("vision_tower.norm.weight".to_owned(), vision);
    for kernels in KERNELS {
        assert_computes("gemma3-tied", model.write().path(), kernels);
    }
    model.config["text_config"]["hidden_size"] = json!(-1);
    let _alone = one_at_a_time();
    let message = crate::load(model.write().path(), &LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("text_config.hidden_size is -1"), "{message}");
}
