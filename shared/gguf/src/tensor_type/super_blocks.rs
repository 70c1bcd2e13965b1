//! Blocks of 256 values: small groups whose scales are themselves quantized, by one or two floats for the block.

use super::{Groups, half_at};

/// Block: scale of the scales f16, scale of the minimums f16, 12 bytes of 6-bit scales and minimums, 128 bytes of halves.
/// A value is `scale * level - minimum` with its group's; the group's scale has 17 bits at most, so nothing is rounded
/// that the format's own formula does not round.
pub(super) fn q4_k(block: &[u8], groups: &mut Groups) {
    scales_and_minimums(block, groups);
    low_bits(&block[16..], &mut groups.levels);
}

/// As `q4_k`, with 32 bytes of fifth bits before the halves: bit g of byte i is worth 16 in level i of group g.
pub(super) fn q5_k(block: &[u8], groups: &mut Groups) {
    scales_and_minimums(block, groups);
    low_bits(&block[48..], &mut groups.levels);
    for (group, levels) in groups.levels.chunks_exact_mut(32).enumerate() {
        for (level, byte) in levels.iter_mut().zip(&block[16..48]) {
            *level |= (byte >> group & 1) << 4;
        }
    }
}

fn scales_and_minimums(block: &[u8], groups: &mut Groups) {
    let (of_scales, of_minimums) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for group in 0..8 {
        let (scale, minimum) = six_bits(packed, group);
        groups.scales[group] = of_scales * f32::from(scale);
        groups.biases[group] = -(of_minimums * f32::from(minimum));
    }
}

/// Scale and minimum of a group. The first four are the low six bits of bytes 0 to 3 and 4 to 7; the last four have
/// their low halves in bytes 8 to 11 and their upper two bits on top of the first four's.
fn six_bits(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (
        low & 15 | packed[group - 4] >> 6 << 4,
        low >> 4 | packed[group] >> 6 << 4,
    )
}

/// Of each 64 levels, the first 32 are the low halves of 32 bytes and the others their high halves.
fn low_bits(bytes: &[u8], levels: &mut [u8]) {
    for (bytes, levels) in bytes.chunks_exact(32).zip(levels.chunks_exact_mut(64)) {
        let (low, high) = levels.split_at_mut(32);
        for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
}

/// The whole numbers that a `Q6_K` block's scale is multiplied by: scale of the group of 16 times level minus 32.
///
/// Block: 128 bytes of halves, 64 bytes of pairs of bits, 16 signed scales, scale f16. Of each 128 levels, level i has
/// its low half in byte i % 64 (the high one for the last 64) and its upper two bits in byte i % 32, pair i / 32.
pub(super) fn q6_k_multiples(block: &[u8]) -> [i32; 256] {
    let (halves, pairs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    std::array::from_fn(|at| {
        let (part, within) = (at / 128, at % 128);
        let low = halves[part * 64 + within % 64] >> (within / 64 * 4) & 15;
        let high = pairs[part * 32 + within % 32] >> (within / 32 * 2) & 3;
        (i32::from(low | high << 4) - 32) * i32::from(scales[at / 16].cast_signed())
    })
}

pub(super) fn q6_k_scale(block: &[u8]) -> f32 {
    half_at(block, 208)
}

/// A multiple has 13 bits with its sign and the scale 11, so the products are exact.
pub(super) fn q6_k_values(block: &[u8], values: &mut [f32]) {
    let scale = q6_k_scale(block);
    for (value, multiple) in values.iter_mut().zip(q6_k_multiples(block)) {
        *value = scale * multiple as f32;
    }
}
