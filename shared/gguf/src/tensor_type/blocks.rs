//! Blocks of 32 values with one scale. Where the type has no minimum, the levels are made unsigned and the bias takes
//! them back; both products are exact in float32, so the values are too.

use super::{Groups, half_at};

/// Block: scale f16, 16 bytes of halves; a value is `scale * (level - 8)`.
pub(super) fn q4_0(block: &[u8], groups: &mut Groups) {
    let scale = half_at(block, 0);
    groups.scales[0] = scale;
    groups.biases[0] = -8.0 * scale;
    halves(&block[2..], &mut groups.levels);
}

/// Block: scale f16, minimum f16, 16 bytes of halves; a value is `scale * level + minimum`.
pub(super) fn q4_1(block: &[u8], groups: &mut Groups) {
    groups.scales[0] = half_at(block, 0);
    groups.biases[0] = half_at(block, 2);
    halves(&block[4..], &mut groups.levels);
}

/// Block: scale f16, 32 fifth bits, 16 bytes of halves; a value is `scale * (level - 16)`.
pub(super) fn q5_0(block: &[u8], groups: &mut Groups) {
    let scale = half_at(block, 0);
    groups.scales[0] = scale;
    groups.biases[0] = -16.0 * scale;
    halves(&block[6..], &mut groups.levels);
    fifth_bits(&block[2..6], &mut groups.levels);
}

/// Block: scale f16, minimum f16, 32 fifth bits, 16 bytes of halves; a value is `scale * level + minimum`.
pub(super) fn q5_1(block: &[u8], groups: &mut Groups) {
    groups.scales[0] = half_at(block, 0);
    groups.biases[0] = half_at(block, 2);
    halves(&block[8..], &mut groups.levels);
    fifth_bits(&block[4..8], &mut groups.levels);
}

/// Block: scale f16, 32 signed bytes; a level is the signed value plus 128.
pub(super) fn q8_0(block: &[u8], groups: &mut Groups) {
    let scale = half_at(block, 0);
    groups.scales[0] = scale;
    groups.biases[0] = -128.0 * scale;
    for (level, byte) in groups.levels.iter_mut().zip(&block[2..]) {
        *level = byte.wrapping_add(128);
    }
}

/// Byte i holds level i in its low half and level i + 16 in its high half.
fn halves(bytes: &[u8], levels: &mut [u8]) {
    let (low, high) = levels.split_at_mut(16);
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Bit i is worth 16 in level i.
fn fifth_bits(bytes: &[u8], levels: &mut [u8]) {
    for (byte, levels) in bytes.iter().zip(levels.chunks_exact_mut(8)) {
        for (at, level) in levels.iter_mut().enumerate() {
            *level |= (byte >> at & 1) << 4;
        }
    }
}
