//! The unnormalised softmax of a row.
#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use crate::Instructions;
use crate::instructions::dispatched;
use crate::lanes::Lanes;

/// Exponentials below this are taken for zero: the vector form does not go below it.
const SMALLEST: f32 = 1.5e-38;

/// Computes `exp((x - shift) / divisor)` into `out`, exactly zero where it is too small for a float32.
///
/// # Panics
/// When the slices' lengths differ.
pub fn exponentials(instructions: Instructions, x: &[f32], (shift, divisor): (f32, f32), out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    compute(instructions, x, (shift, divisor), out);
    for value in out {
        *value = if *value < SMALLEST { 0.0 } else { *value };
    }
}

dispatched! { fn compute = shifted(x: &[f32], scale: (f32, f32), out: &mut [f32]) }

/// No closure: one would be compiled without the instructions of the function around it.
#[inline(always)]
fn one<S: Lanes>(value: S, shift: f32, divisor: f32) -> S {
    value.sub(S::splat(shift)).div(S::splat(divisor)).exp()
}

#[inline(always)]
fn shifted<S: Lanes>(x: &[f32], (shift, divisor): (f32, f32), out: &mut [f32]) {
    let whole = x.len() - x.len() % S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + S::LANES` is within both slices.
        unsafe { one(S::load(x.as_ptr().add(at)), shift, divisor).store(out.as_mut_ptr().add(at)) };
    }
    for at in whole..x.len() {
        out[at] = one(S::splat(x[at]), shift, divisor).first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_shifted_and_scaled() {
        let x: Vec<f32> = (0..43).map(|index| index as f32 * 0.37 - 20.0).collect();
        for instructions in Instructions::available() {
            let mut out = vec![f32::NAN; x.len()];
            exponentials(instructions, &x, (1.0, 0.7), &mut out);
            for (value, found) in x.iter().zip(&out) {
                let expected = ((f64::from(*value) - 1.0) / f64::from(0.7_f32)).exp();
                assert!(
                    (f64::from(*found) - expected).abs() <= expected * 2e-6,
                    "{found} {expected}"
                );
            }
        }
    }

    #[test]
    fn what_is_too_small_is_zero() {
        let mut out = [1.0; 3];
        exponentials(
            Instructions::detect(),
            &[f32::NEG_INFINITY, -100.0, 0.0],
            (0.0, 1.0),
            &mut out,
        );
        assert_eq!(out, [0.0, 0.0, 1.0]);
    }
}
