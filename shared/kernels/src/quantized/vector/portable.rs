//! Plain Rust: the reference, and what is left where no better instructions are.
#![expect(unsafe_code, reason = "loads through pointers")]

use super::{LINES, Vector};
use crate::quantized::pack::float;
use crate::quantized::{PANEL, ScaleType};

/// Arrays.
#[derive(Debug, Clone, Copy)]
pub(in crate::quantized) enum Portable {}

impl Vector for Portable {
    const OUTPUTS: usize = PANEL;
    const ROWS: usize = 4;
    type Bytes = [[u8; 4]; PANEL];
    type Sums = [i32; PANEL];
    type Floats = [f32; PANEL];

    #[inline(always)]
    unsafe fn bytes(source: *const u8) -> Self::Bytes {
        // SAFETY: the caller's promise; bytes need no alignment.
        unsafe { source.cast::<Self::Bytes>().read() }
    }

    #[inline(always)]
    fn halves(bytes: Self::Bytes) -> [Self::Bytes; 2] {
        [
            bytes.map(|four| four.map(|byte| byte & 15)),
            bytes.map(|four| four.map(|byte| byte >> 4)),
        ]
    }

    #[inline(always)]
    fn no_bytes() -> Self::Bytes {
        [[0; 4]; PANEL]
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn small_sums<const ROWS: usize>(
        weights: &[Self::Bytes; LINES],
        x: [*const i8; ROWS],
    ) -> [Self::Sums; ROWS] {
        // SAFETY: the caller's promise.
        unsafe { Self::large_sums(weights, x) }
    }

    #[inline(always)]
    unsafe fn large_sums<const ROWS: usize>(
        weights: &[Self::Bytes; LINES],
        x: [*const i8; ROWS],
    ) -> [Self::Sums; ROWS] {
        let mut sums = [[0; PANEL]; ROWS];
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: the caller's promise.
            let x = unsafe { x.cast::<[[i8; 4]; LINES]>().read() };
            for (weights, x) in weights.iter().zip(x) {
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    for (weight, x) in weights.iter().zip(x) {
                        *sum += i32::from(*weight) * i32::from(x);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn of_sums(sums: Self::Sums) -> Self::Floats {
        #[expect(clippy::cast_precision_loss, reason = "below 2^24")]
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn of_bytes(bytes: Self::Bytes) -> [Self::Floats; 4] {
        std::array::from_fn(|place| bytes.map(|four| f32::from(four[place])))
    }

    #[inline(always)]
    fn splat(value: f32) -> Self::Floats {
        [value; PANEL]
    }

    #[inline(always)]
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn scales(source: *const u8, scale_type: ScaleType) -> Self::Floats {
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(source, PANEL * scale_type.bytes()) };
        std::array::from_fn(|lane| float(&bytes[lane * scale_type.bytes()..], scale_type))
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, target: *mut f32) {
        // SAFETY: the caller's promise; float arrays need no alignment here.
        unsafe { target.cast::<Self::Floats>().write_unaligned(floats) }
    }
}
