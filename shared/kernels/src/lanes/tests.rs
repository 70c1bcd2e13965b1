use super::*;
use crate::Instructions;
use crate::half::{from_bfloat16, from_float16};
use crate::instructions::dispatched;

type Values = [f32; MOST_LANES];

dispatched! { fn all_exps = exps(values: &Values) -> Values }
dispatched! { fn lane_sum = sum(values: &Values) -> f32 }
dispatched! { fn eight_sums = sums(vectors: &[Values; 8]) -> [f32; 8] }
dispatched! { fn halves = widened(halves: &[u16; MOST_LANES]) -> [Values; 2] }
dispatched! { fn lane_count = count() -> usize }

#[inline(always)]
fn exps<S: Lanes>(values: &Values) -> Values {
    let mut out = *values;
    S::from_slice(values).exp().write_to(&mut out);
    out
}

#[inline(always)]
fn sum<S: Lanes>(values: &Values) -> f32 {
    S::from_slice(values).sum()
}

#[inline(always)]
fn sums<S: Lanes>(vectors: &[Values; 8]) -> [f32; 8] {
    S::sums(vectors.map(|values| S::from_slice(&values)))
}

#[inline(always)]
fn widened<S: Lanes>(halves: &[u16; MOST_LANES]) -> [Values; 2] {
    let mut out = [[0.0; MOST_LANES]; 2];
    // SAFETY: the array holds as many as any vector.
    unsafe {
        S::load_bfloat16(halves.as_ptr()).write_to(&mut out[0]);
        S::load_float16(halves.as_ptr()).write_to(&mut out[1]);
    }
    out
}

#[inline(always)]
fn count<S: Lanes>() -> usize {
    S::LANES
}

#[test]
fn exponentials_are_exact_to_a_few_units_in_the_last_place() {
    for instructions in Instructions::available() {
        for step in -87_000..88_000 {
            let value = step as f32 / 1000.0;
            let found = all_exps(instructions, &[value; MOST_LANES])[3];
            let expected = f64::from(value).exp();
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({value}) = {found}, off by {error}");
        }
    }
}

#[test]
fn exponentials_of_extreme_values_stay_defined() {
    for instructions in Instructions::available() {
        let mut values = [1.0; MOST_LANES];
        values[..7].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, -1e30, 1e30]);
        let exps = all_exps(instructions, &values);
        assert!((0.0..1e-37).contains(&exps[0]), "{}", exps[0]);
        assert!(exps[1].is_finite() && exps[1] > 1e38, "{}", exps[1]);
        assert!(exps[2].is_nan());
        assert_eq!((exps[3], exps[4]), (1.0, 1.0));
    }
}

#[test]
fn lanes_are_summed_in_one_order_alone_and_together() {
    let mut values = [0.0; MOST_LANES];
    let eight = [1e8, 3.0, -1e8, 7.5, 0.1, 1e7, -3.3, 0.7];
    values[..8].copy_from_slice(&eight);
    let mut of_eight = Vec::new();
    for instructions in Instructions::available() {
        if lane_count(instructions) == 8 {
            of_eight.push(lane_sum(instructions, &values).to_bits());
        }
        let vectors = std::array::from_fn(|row| {
            let mut vector = [0.0; MOST_LANES];
            for (lane, value) in vector.iter_mut().enumerate() {
                *value = eight[(lane * 3 + row) % 8] * (row + lane) as f32;
            }
            vector
        });
        let alone = vectors.map(|vector| lane_sum(instructions, &vector).to_bits());
        assert_eq!(eight_sums(instructions, &vectors).map(f32::to_bits), alone);
    }
    assert!(of_eight.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn every_half_is_widened_exactly() {
    for instructions in Instructions::available() {
        let lanes = lane_count(instructions);
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for bits in all.as_chunks::<MOST_LANES>().0 {
            let [bfloat16, float16] = halves(instructions, bits);
            for (lane, bits) in bits.iter().copied().enumerate().take(lanes) {
                assert_eq!(bfloat16[lane].to_bits(), from_bfloat16(bits).to_bits());
                assert_eq!(float16[lane].to_bits(), from_float16(bits).to_bits(), "{bits:#x}");
            }
        }
    }
    assert_eq!(from_float16(0x3c00), 1.0);
    assert_eq!(from_float16(0x7bff), 65504.0);
    assert_eq!(from_float16(0x0001), 2f32.powi(-24));
    assert_eq!(from_float16(0x83ff), -1023.0 * 2f32.powi(-24));
    assert_eq!(from_float16(0xfc00), f32::NEG_INFINITY);
    assert!(from_float16(0x7e01).is_nan());
}
