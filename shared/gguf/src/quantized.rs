//! Packs levels the way MLX's affine quantization stores them: a row is a little-endian stream of `bits`-wide levels in
//! 32-bit words, and every group of a row has one scale and one bias.

/// Appends a row's levels as the bytes of its words.
pub(crate) fn pack(levels: &[u8], bits: usize, packed: &mut Vec<u8>) {
    let mut pending = 0_u64;
    let mut pending_bits = 0;
    for level in levels {
        pending |= u64::from(*level) << pending_bits;
        pending_bits += bits;
        while pending_bits >= 8 {
            packed.push((pending & 0xff) as u8);
            pending >>= 8;
            pending_bits -= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pack;

    #[test]
    fn four_bit_levels_fill_a_word_from_its_low_end() {
        let mut packed = Vec::new();
        pack(&[1, 2, 3, 4, 5, 6, 7, 8], 4, &mut packed);
        assert_eq!(packed, 0x8765_4321_u32.to_le_bytes());
    }

    #[test]
    fn eight_bit_levels_are_the_bytes_of_a_word() {
        let mut packed = Vec::new();
        pack(&[1, 2, 3, 255], 8, &mut packed);
        assert_eq!(packed, 0xff03_0201_u32.to_le_bytes());
    }

    #[test]
    fn five_bit_levels_cross_bytes() {
        let mut packed = Vec::new();
        pack(&[31, 0, 31, 0, 31, 0, 31, 0], 5, &mut packed);
        let word: u64 = (0..8).filter(|i| i % 2 == 0).map(|i| 31_u64 << (5 * i)).sum();
        assert_eq!(packed, word.to_le_bytes()[..5]);
    }
}
