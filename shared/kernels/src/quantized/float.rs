//! Runs of activations as they are: products of each input in turn, rounded once each.
#![expect(unsafe_code, reason = "inner loops over pointers")]

use super::layout::RUN;
use super::panel::{Input, Multiply, Places, Weights};
use super::vector::{LINES, Vector};

/// Float32 throughout.
pub(super) enum Float {}

impl Multiply for Float {
    #[inline(always)]
    unsafe fn products<V: Vector, W: Weights, const ROWS: usize>(
        weights: &[V::Bytes; LINES],
        input: &Input<'_>,
        places: Places,
    ) -> [V::Floats; ROWS] {
        let mut sums = [V::splat(0.0); ROWS];
        for (line, weights) in weights.iter().enumerate() {
            for (byte, weights) in V::of_bytes(*weights).into_iter().enumerate() {
                for (index, sum) in sums.iter_mut().enumerate() {
                    let place = (places.first + index * places.stride) * RUN + 4 * line + byte;
                    // SAFETY: every row has this run, the caller's promise.
                    let x = unsafe { *input.values.get_unchecked(place) };
                    *sum = V::mul_add(weights, V::splat(x), *sum);
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn unit(_: &Input<'_>, _: usize) -> f32 {
        1.0
    }
}
