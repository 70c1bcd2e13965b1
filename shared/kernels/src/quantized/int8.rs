//! Runs of activations rounded to int8.
#![expect(unsafe_code, reason = "inner loops over pointers")]

use super::layout::RUN;
use super::panel::{Input, Multiply, Places, Weights};
use super::vector::{LINES, Vector};

/// Whole numbers throughout.
pub(super) enum Int8 {}

impl Multiply for Int8 {
    #[inline(always)]
    unsafe fn products<V: Vector, W: Weights, const ROWS: usize>(
        weights: &[V::Bytes; LINES],
        input: &Input<'_>,
        places: Places,
    ) -> [V::Floats; ROWS] {
        let mut x = [input.prepared.bytes.as_ptr(); ROWS];
        for (index, x) in x.iter_mut().enumerate() {
            // SAFETY: every row has this run, the caller's promise.
            *x = unsafe { x.add((places.first + index * places.stride) * RUN) };
        }
        // SAFETY: as above.
        let sums = unsafe { W::sums::<V, ROWS>(weights, x) };
        let mut products = [V::splat(0.0); ROWS];
        for (product, sums) in products.iter_mut().zip(sums) {
            *product = V::of_sums(sums);
        }
        products
    }

    #[inline(always)]
    unsafe fn unit(input: &Input<'_>, place: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *input.prepared.scales.get_unchecked(place) }
    }
}
