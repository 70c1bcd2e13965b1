use std::fs;

use super::{ConfigFile, Scheme};

fn config(json: &str) -> (tempfile::TempDir, ConfigFile) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), json).unwrap();
    let config = ConfigFile::open(dir.path()).unwrap();
    (dir, config)
}

#[test]
fn overrides_hold_for_their_layer_only() {
    let (_dir, config) = config(
        r#"{"quantization": {"group_size": 32, "bits": 4, "mode": "affine",
            "model.embed_tokens": {"group_size": 64, "bits": 8}, "lm_head": false, "norm": true}}"#,
    );
    let quantization = config.quantization().unwrap().unwrap();
    let scheme = |group_size, bits| Some(Scheme { group_size, bits });
    assert_eq!(quantization.scheme("model.embed_tokens"), scheme(64, 8));
    assert_eq!(quantization.scheme("lm_head"), None);
    assert_eq!(quantization.scheme("norm"), scheme(32, 4));
    assert_eq!(quantization.scheme("model.layers.0.mlp.up_proj"), scheme(32, 4));
}

#[test]
fn a_copy_of_quantization_under_the_other_name_is_accepted() {
    let (_dir, both) = config(
        r#"{"quantization": {"group_size": 32, "bits": 4}, "quantization_config": {"group_size": 32, "bits": 4}}"#,
    );
    assert!(both.quantization().unwrap().is_some());
    let (_dir, none) = config("{}");
    assert_eq!(none.quantization().unwrap(), None);
}

#[test]
fn null_is_as_good_as_absent() {
    let (_dir, config) = config(r#"{"rope_scaling": null, "nested": {"deep": 3}}"#);
    assert!(config.get("rope_scaling").is_none());
    assert_eq!(config.integer("nested.deep", 1..=4).unwrap(), 3);
    assert_eq!(config.integer_or("rope_scaling", 1..=4, 2).unwrap(), 2);
}

#[test]
fn an_error_names_file_field_value_and_cure() {
    let (dir, config) = config(r#"{"width": 9}"#);
    let error = config.integer("width", 1..=4).unwrap_err().to_string();
    let file = dir.path().join("config.json");
    assert_eq!(
        error,
        format!(
            "{}: width is 9: it must be a whole number from 1 to 4; correct it, or download the model again",
            file.display()
        )
    );
}

#[test]
fn end_tokens_come_from_either_file() {
    let (dir, config) = config(r#"{"eos_token_id": 2}"#);
    assert_eq!(config.eos_token_ids().unwrap(), [2]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#).unwrap();
    assert_eq!(config.eos_token_ids().unwrap(), [2, 7]);
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": -1}"#).unwrap();
    let error = config.eos_token_ids().unwrap_err().to_string();
    assert!(error.contains("generation_config.json"), "{error}");
}
