use super::*;
use crate::Instructions;
use crate::instructions::dispatched;

dispatched! { fn all_exps = exps(values: &[f32; LANES]) -> [f32; LANES] }
dispatched! { fn lane_sum = sum(values: &[f32; LANES]) -> f32 }

#[inline(always)]
fn exps<S: Lanes>(values: &[f32; LANES]) -> [f32; LANES] {
    // SAFETY: the array holds eight values.
    unsafe { S::load(values.as_ptr()) }.exp().to_array()
}

#[inline(always)]
fn sum<S: Lanes>(values: &[f32; LANES]) -> f32 {
    // SAFETY: the array holds eight values.
    unsafe { S::load(values.as_ptr()) }.sum()
}

#[test]
fn exponentials_are_exact_to_a_few_units_in_the_last_place() {
    for instructions in [Instructions::detect(), Instructions::portable()] {
        for step in -87_000..88_000 {
            let value = step as f32 / 1000.0;
            let found = all_exps(instructions, &[value; LANES])[3];
            let expected = f64::from(value).exp();
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({value}) = {found}, off by {error}");
        }
    }
}

#[test]
fn exponentials_of_extreme_values_stay_defined() {
    for instructions in [Instructions::detect(), Instructions::portable()] {
        let values = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, -1e30, 1e30, 1.0];
        let [low, high, nan, one, other_one, ..] = all_exps(instructions, &values);
        assert!((0.0..1e-37).contains(&low), "{low}");
        assert!(high.is_finite() && high > 1e38, "{high}");
        assert!(nan.is_nan());
        assert_eq!((one, other_one), (1.0, 1.0));
    }
}

#[test]
fn lanes_are_summed_in_the_same_order_everywhere() {
    let values = [1e8, 3.0, -1e8, 7.5, 0.1, 1e7, -3.3, 0.7];
    let sums = [Instructions::detect(), Instructions::portable()].map(|instructions| lane_sum(instructions, &values));
    assert_eq!(sums[0].to_bits(), sums[1].to_bits());
}
