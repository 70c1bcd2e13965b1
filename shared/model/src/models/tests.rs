//! Every architecture against the logits of transformers, in all the ways a step can be put together.

mod config;
mod files;
mod quantized;

use std::collections::BTreeSet;

use kr_contract::TokenId;
use kr_engine::model::Model;

use crate::testing::{KERNELS, ModelDir, Rig, Run, assert_close, expected, fixture};
use crate::{ComputeDtype, Kernels, LoadOptions};

/// All the fixtures that make_fixtures.py makes, and the two older ones.
pub(super) const MODELS: [&str; 19] = [
    "llama-tied",
    "llama-untied",
    "llama-llama3",
    "llama-linear",
    "llama-yarn",
    "mistral-windowed",
    "mistral-full",
    "qwen2-tied",
    "qwen2-windowed",
    "qwen3-tied",
    "qwen3-biased",
    "gemma3-tied",
    "gemma3-untied",
    "phi3-fused",
    "phi3-partial",
    "phi3-longrope",
    "qwen3-moe-normed",
    "qwen3-moe-raw",
    "mixtral-windowed",
];

/// float32 against float32 in another order of summation; logits go up to about 20.
pub(super) const TOLERANCE: f32 = 2e-4;

pub(super) fn whole(ids: &[TokenId]) -> [Run<'_>; 1] {
    [Run { slot: 0, start: 0, ids }]
}

fn on_all_kernels() -> impl Iterator<Item = (&'static str, Kernels)> {
    MODELS
        .into_iter()
        .flat_map(|name| KERNELS.map(|kernels| (name, kernels)))
}

#[test]
fn every_architecture_has_a_fixture_and_every_fixture_is_tested() {
    let folders = std::fs::read_dir(fixture("")).unwrap();
    let folders: BTreeSet<String> = folders
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("expected.safetensors").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, MODELS.map(str::to_owned).into());
    let config = |name| {
        ModelDir::fixture(name).config["architectures"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let tested: BTreeSet<String> = MODELS.into_iter().map(config).collect();
    let mut loaders: BTreeSet<_> = super::LOADERS.map(|(name, _)| name.to_owned()).into();
    // See `files::a_decoder_may_lie_among_other_parts`.
    loaders.remove("Gemma3ForConditionalGeneration");
    assert_eq!(tested, loaders);
}

#[test]
fn logits_equal_those_of_transformers() {
    for (name, kernels) in on_all_kernels() {
        let (ids, logits) = expected(name);
        let mut rig = Rig::with_kernels(name, kernels);
        rig.acquire(0, 0);
        println!("{name}, {kernels:?}");
        assert_close(&rig.logits(&whole(&ids))[0], &logits, TOLERANCE);
    }
}

#[test]
fn a_token_at_a_time_gives_the_logits_of_one_full_pass() {
    for (name, kernels) in on_all_kernels() {
        let (ids, logits) = expected(name);
        let mut rig = Rig::with_kernels(name, kernels);
        rig.acquire(0, 0);
        println!("{name}, {kernels:?}");
        let stepped: Vec<_> = (0..ids.len())
            .flat_map(|start| {
                let ids = &ids[start..=start];
                rig.logits(&[Run { slot: 0, start, ids }]).remove(0)
            })
            .collect();
        assert_close(&stepped, &logits, TOLERANCE);
    }
}

/// What each of six slots adds in each step: decodes of different positions and buckets beside chunks of different lengths.
const STEPS: [[usize; 6]; 6] = [
    [20, 3, 11, 1, 5, 0],
    [1, 1, 1, 1, 1, 30],
    [1, 6, 1, 1, 9, 1],
    [1, 1, 13, 2, 1, 1],
    [0, 1, 1, 0, 0, 0],
    [1, 1, 1, 1, 1, 1],
];

/// Runs [`STEPS`] with `ids` of each slot and returns the logits of each.
fn stepped(rig: &mut Rig, ids: [&[TokenId]; 6]) -> [Vec<Vec<f32>>; 6] {
    let buckets = u8::try_from(rig.model.limits().bucket_tokens.len()).unwrap();
    for (slot, bucket) in [(0, 0), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0)] {
        rig.acquire(slot, bucket % buckets);
    }
    let mut found: [Vec<Vec<f32>>; 6] = Default::default();
    for lengths in STEPS {
        let runs: Vec<_> = (0..6)
            .filter(|slot| lengths[*slot] > 0)
            .map(|slot| {
                let start = found[slot].len();
                Run {
                    slot: u32::try_from(slot).unwrap(),
                    start,
                    ids: &ids[slot][start..start + lengths[slot]],
                }
            })
            .collect();
        for (run, logits) in runs.iter().zip(rig.logits(&runs)) {
            found[run.slot as usize].extend(logits);
        }
    }
    found
}

#[test]
fn chunks_and_decodes_of_several_sequences_mix_in_one_step() {
    for (name, kernels) in on_all_kernels() {
        let (ids, logits) = expected(name);
        let mut rig = Rig::with_kernels(name, kernels);
        println!("{name}, {kernels:?}");
        for found in stepped(&mut rig, [&ids; 6]) {
            assert_close(&found, &logits[..found.len()], TOLERANCE);
        }
    }
}

/// What the numerics class `invariant` promises.
#[test]
#[cfg(target_os = "linux")]
fn other_sequences_and_chunks_change_no_bit() {
    for name in MODELS {
        let (ids, _) = expected(name);
        let rotated: Vec<Vec<TokenId>> = (0..6)
            .map(|slot| [&ids[slot * 5..], &ids[..slot * 5]].concat())
            .collect();
        let mut rig = Rig::with_kernels(name, Kernels::Auto);
        let class = rig.model.info().fingerprint.class;
        assert_eq!(class, kr_contract::Exactness::Invariant, "{name}");
        let mixed = stepped(&mut rig, std::array::from_fn(|slot| &rotated[slot][..]));
        for ((ids, mixed), slot) in rotated.iter().zip(mixed).zip(6..) {
            rig.acquire(slot, 0);
            let ids = &ids[..mixed.len()];
            let alone = rig.logits(&[Run { slot, start: 0, ids }]).remove(0);
            let bits = |logits: Vec<Vec<f32>>| logits.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(mixed) == bits(alone), "{name}");
        }
    }
}

#[test]
fn half_precision_stays_near_float32() {
    for (name, dtype) in MODELS
        .iter()
        .flat_map(|name| [(name, ComputeDtype::Bfloat16), (name, ComputeDtype::Float16)])
    {
        let (ids, logits) = expected(name);
        let options = LoadOptions {
            dtype: Some(dtype),
            ..LoadOptions::default()
        };
        let mut rig = Rig::new(ModelDir::fixture(name).write().path(), &options);
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        let largest = logits
            .iter()
            .flatten()
            .fold(0.0_f32, |most, logit| most.max(logit.abs()));
        // A bfloat16 has 8 bits, a float16 11; some dozens of roundings add up.
        let tolerance = largest * if dtype == ComputeDtype::Bfloat16 { 0.06 } else { 0.015 };
        println!("{name}, {dtype:?}");
        assert_close(&rig.logits(&whole(&ids))[0], &logits, tolerance);
        let run = |start: usize, len: usize| Run {
            slot: 1,
            start,
            ids: &ids[start..start + len],
        };
        rig.logits(&[run(0, 20)]);
        assert_close(&rig.logits(&[run(20, 1)])[0], &logits[20..21], tolerance);
    }
}
