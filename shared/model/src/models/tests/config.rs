//! config.json in its older forms, and what it may say that is refused.

use serde_json::{Value, json};

use super::{TOLERANCE, whole};
use crate::testing::{ModelDir, Rig, assert_close, expected, one_at_a_time};
use crate::{LoadOptions, load};

fn change(config: &mut Value, changes: Value) {
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
}

/// Changes what `config` says, but not what it means.
fn means_the_same(name: &str, changes: Value) {
    let mut dir = ModelDir::fixture(name);
    change(&mut dir.config, changes);
    let (ids, logits) = expected(name);
    let mut rig = Rig::new(dir.write().path(), &LoadOptions::default());
    rig.acquire(0, 0);
    assert_close(&rig.logits(&whole(&ids))[0], &logits, TOLERANCE);
}

#[test]
fn rotations_may_be_written_as_they_used_to_be() {
    let scaling = json!({
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    });
    means_the_same(
        "llama-llama3",
        json!({"rope_parameters": null, "rope_scaling": scaling, "rope_theta": 500.0}),
    );
    means_the_same(
        "llama-linear",
        json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    );
    means_the_same(
        "llama-untied",
        json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}}),
    );
}

/// Returns the message for a config.json with some fields changed.
pub(super) fn refusal(name: &str, changes: Value) -> String {
    let _alone = one_at_a_time();
    let mut dir = ModelDir::fixture(name);
    change(&mut dir.config, changes);
    let dir = dir.write();
    load(dir.path(), &LoadOptions::default()).unwrap_err().to_string()
}

pub(super) fn assert_refused(name: &str, changes: Value, words: &str) {
    let message = refusal(name, changes.clone());
    assert!(message.contains("config.json"), "{message}");
    assert!(message.contains(words), "{name}, {changes}: {message}");
    assert!(message.contains(';'), "names no cure: {message}");
}

#[test]
fn rotations_that_cannot_be_computed_are_refused() {
    let rope = |fields: Value| json!({"rope_parameters": fields});
    let cases = [
        (rope(json!({"rope_type": "proportional"})), "rope_parameters.rope_type"),
        (rope(json!({"rope_type": 3})), "a name"),
        (rope(json!("llama3")), "an object"),
        (rope(json!({"rope_type": "linear"})), "rope_parameters.factor"),
        (rope(json!({"rope_type": "linear", "factor": -2})), "positive"),
        (
            rope(json!({"rope_type": "default", "mrope_section": [8, 8]})),
            "mrope_section",
        ),
        (
            rope(json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
            "partial_rotary_factor",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            rope(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0})),
            "above",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "something else",
        ),
        (
            rope(json!({"rope_type": "yarn", "factor": 4.0, "truncate": "no"})),
            "true or false",
        ),
        (
            rope(json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]})),
            "list of 32",
        ),
    ];
    for (changes, words) in cases {
        assert_refused("llama-llama3", changes, words);
    }
}
