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
        let mut products = [V::splat(0.0); ROWS];
        for (index, product) in products.iter_mut().enumerate() {
            let place = places.first + index * places.stride;
            // SAFETY: every row has this run, the caller's promise.
            let sums = unsafe {
                let x = input.prepared.bytes.as_ptr().add(place * RUN);
                W::add::<V>(V::no_sums(), weights, x)
            };
            *product = V::of_sums(sums);
        }
        products
    }

    #[inline(always)]
    fn unit(input: &Input<'_>, place: usize) -> f32 {
        input.prepared.scales[place]
    }
}
