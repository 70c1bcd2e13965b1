//! The KV budget that is measured.

use kr_engine::model::Model;

use crate::loaded::measure::WidestStep;
use crate::sample::Sampler;
use crate::testing::{Rig, fixture};
use crate::{Kernels, LoadOptions};

#[test]
fn a_budget_that_is_not_configured_is_measured_once_and_remembered() {
    let cache = tempfile::tempdir().unwrap();
    for kernels in crate::testing::KERNELS {
        let options = LoadOptions {
            kernels,
            cache_dir: Some(cache.path().to_owned()),
            ..LoadOptions::default()
        };
        let files = || {
            let folder = std::fs::read_dir(cache.path().join("workspace")).ok();
            folder.map_or(0, Iterator::count)
        };
        let before = files();
        let first = Rig::new(&fixture("llama-tied"), &options).model.limits().clone();
        assert_eq!(files(), before + 1, "{kernels:?}");
        assert!(first.kv_budget_bytes > 0 && first.store_blocks > 0, "{first:?}");
        assert_eq!(first.max_sequences, 32);
        let again = Rig::new(&fixture("llama-tied"), &options).model.limits().clone();
        assert_eq!(files(), before + 1, "{kernels:?}");
        assert_eq!(again.bucket_tokens, first.bucket_tokens);
    }
}

#[test]
fn a_wider_step_takes_more_workspace() {
    let measured = |step_tokens| {
        let cache = tempfile::tempdir().unwrap();
        let options = LoadOptions {
            kernels: Kernels::MlxOnly,
            step_tokens,
            cache_dir: Some(cache.path().to_owned()),
            ..LoadOptions::default()
        };
        drop(Rig::new(&fixture("llama-tied"), &options));
        let file = std::fs::read_dir(cache.path().join("workspace"))
            .unwrap()
            .next()
            .unwrap();
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let measured: serde_json::Value = serde_json::from_str(&text).unwrap();
        measured["workspace_bytes"].as_u64().unwrap()
    };
    let (narrow, wide) = (measured(16), measured(256));
    assert!(0 < narrow && narrow * 2 < wide, "{narrow} {wide}");
}

#[test]
fn a_step_that_samples_on_the_device_is_measured_too() {
    let options = LoadOptions {
        kernels: Kernels::MlxOnly,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(&fixture("llama-tied"), &options);
    rig.model.sampler = Sampler::Device;
    let step = WidestStep { tokens: 32, rows: 32 };
    let logits_bytes = 32 * u64::from(rig.model.info().vocab_size) * 4;
    // What filters by probability holds more than one array of that size.
    assert!(rig.model.workspace(step).unwrap() > 2 * logits_bytes);
}

#[test]
fn a_configured_budget_wins() {
    let options = LoadOptions {
        kv_budget_bytes: Some(3 << 20),
        store_blocks: Some(0),
        ..LoadOptions::default()
    };
    let rig = Rig::new(&fixture("llama-tied"), &options);
    assert_eq!(rig.model.limits().kv_budget_bytes, 3 << 20);
}
