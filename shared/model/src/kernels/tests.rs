//! Sixteen-bit checkpoints on the CPU.

use kr_contract::Exactness;
use safetensors::Dtype;

use crate::testing::{ModelDir, Rig, Run, expected};
use crate::{ComputeDtype, LoadOptions};

/// A fixture whose weights are cut to sixteen bits, and the same values in float32.
#[expect(clippy::cast_possible_truncation, reason = "keeps sixteen bits")]
fn halved(name: &str, dtype: Dtype) -> [ModelDir; 2] {
    let mut stored = ModelDir::fixture(name);
    let mut wide = ModelDir::fixture(name);
    for (name, tensor) in &mut stored.tensors {
        let values = tensor
            .data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        let (halves, widened): (Vec<_>, Vec<_>) = match dtype {
            Dtype::BF16 => values
                .map(|value| value.to_bits() >> 16)
                .map(|bits| (bits as u16, f32::from_bits(bits << 16)))
                .unzip(),
            // Powers of two and their sums of few digits have the same value in both.
            _ => values
                .map(|value| (value * 256.0).round().clamp(-1023.0, 1023.0) / 256.0)
                .map(|value| (float16_of(value), value))
                .unzip(),
        };
        tensor.dtype = dtype;
        tensor.data = halves.into_iter().flat_map(u16::to_le_bytes).collect();
        let wide = wide.tensors.get_mut(name).unwrap();
        wide.data = widened.into_iter().flat_map(f32::to_le_bytes).collect();
    }
    [stored, wide]
}

/// Of a value that a normal float16 can have, or zero.
#[expect(clippy::cast_possible_truncation, reason = "keeps sixteen bits")]
fn float16_of(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    match value == 0.0 {
        true => sign,
        false => sign | ((bits >> 13 & 0x3_ffff) - (112 << 10)) as u16,
    }
}

#[test]
fn sixteen_bit_checkpoints_compute_in_float32_from_the_weights_as_they_lie() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let [stored, wide] = halved("llama-tied", dtype);
        let matrices: usize = stored
            .tensors
            .values()
            .filter(|tensor| tensor.shape.len() > 1)
            .map(|tensor| tensor.data.len())
            .sum();
        let (ids, _) = expected("llama-tied");
        let ids = &ids[..8];
        let mut logits = Vec::new();
        for dir in [stored, wide] {
            let mut rig = Rig::new(dir.write().path(), &LoadOptions::default());
            let info = rig.model.info();
            assert_eq!(info.dtype, ComputeDtype::Float32);
            assert!(
                info.mapped_bytes >= matrices as u64,
                "{} of {matrices} are mapped",
                info.mapped_bytes
            );
            assert_eq!(info.fingerprint.class, Exactness::Invariant);
            rig.acquire(0, 0);
            logits.push(rig.logits(&[Run { slot: 0, start: 0, ids }]));
        }
        assert_eq!(logits[0], logits[1], "{dtype:?}");
    }
}
