//! Weights that follow from their names and shapes: what `weights` of fixtures/make_fixtures.py makes, bit for bit.

use std::collections::{BTreeMap, HashMap};

use safetensors::Dtype;

use super::Tensor;

/// The tensors that `tensors.json` lists.
pub(super) fn tensors(json: &[u8]) -> HashMap<String, Tensor> {
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_slice(json).unwrap();
    shapes
        .into_iter()
        .map(|(name, shape)| (name.clone(), tensor(&name, shape)))
        .collect()
}

fn tensor(name: &str, shape: Vec<usize>) -> Tensor {
    let fractions = fractions(fnv1a(name)).take(shape.iter().product());
    let value = |fraction: f64| match name.contains("norm") {
        true => fraction + 0.5,
        false => (fraction - 0.5) * 0.5,
    };
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the type of the file")]
    let data = fractions.flat_map(|fraction| (value(fraction) as f32).to_le_bytes());
    Tensor {
        dtype: Dtype::F32,
        data: data.collect(),
        shape,
    }
}

fn fnv1a(name: &str) -> u64 {
    let offset = 0xCBF2_9CE4_8422_2325;
    name.bytes().fold(offset, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// SplitMix64: the upper 24 bits of each number as a fraction.
fn fractions(seed: u64) -> impl Iterator<Item = f64> {
    (1_u64..).map(move |index| {
        let z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 40).unwrap()) / f64::from(1 << 24)
    })
}
