//! The random number of a token: a function of (seed, choice index, position) and nothing else, so that a seeded
//! request samples the same number alone, in any batch, after a replay and on another worker.
//!
//! Philox 4×32 with ten rounds: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
//! The test vectors are the published ones of the Random123 library.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Returns the Philox 4×32-10 block for a counter and a key.
#[must_use]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let (high0, low0) = split(u64::from(c0) * u64::from(MULTIPLIER[0]));
        let (high1, low1) = split(u64::from(c2) * u64::from(MULTIPLIER[1]));
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// Returns the uniform number in [0, 1) that chooses the token at `position` (0 = the first generated token) of choice
/// `choice_index` under `seed`. 24 bits, so it is exact in a float32.
#[must_use]
pub fn token_uniform(seed: u64, choice_index: u32, position: u32) -> f32 {
    let (seed_high, seed_low) = split(seed);
    let [word, ..] = philox4x32([position, choice_index, 0, 0], [seed_low, seed_high]);
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit a float32 exactly")]
    let numerator = (word >> 8) as f32;
    numerator / 16_777_216.0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves of a 64-bit number are 32 bits each"
)]
fn split(product: u64) -> (u32, u32) {
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_changes_the_number() {
        let base = token_uniform(7, 0, 0);
        assert_ne!(base, token_uniform(8, 0, 0));
        assert_ne!(base, token_uniform(7 + (1 << 32), 0, 0));
        assert_ne!(base, token_uniform(7, 1, 0));
        assert_ne!(base, token_uniform(7, 0, 1));
    }

    #[test]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below 10, which it is to be truncated to"
    )]
    fn numbers_are_uniform_over_positions() {
        let mut counts = [0_u32; 10];
        for position in 0..10_000 {
            let u = token_uniform(42, 0, position);
            assert!((0.0..1.0).contains(&u));
            counts[(u * 10.0) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
