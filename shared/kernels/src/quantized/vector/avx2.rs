//! AVX2: eight outputs, products of bytes in 16 bits.
#![expect(unsafe_code, reason = "vector instructions and loads through pointers")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "one note for all, below")]

use std::arch::x86_64::*;

use super::{LINES, Vector, quad};
use crate::quantized::ScaleType;

/// AVX2 with FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(in crate::quantized) enum Avx2 {}

/// For each output two sums of a run's products: 16 products below 15 · 127 stay below 2^15.
#[inline(always)]
unsafe fn short_sums(weights: &[__m256i; LINES], x: *const i8) -> __m256i {
    unsafe {
        let mut sums = _mm256_setzero_si256();
        for (line, weights) in weights.iter().enumerate() {
            let products = _mm256_maddubs_epi16(*weights, _mm256_set1_epi32(quad(x, line)));
            sums = _mm256_add_epi16(sums, products);
        }
        sums
    }
}

// SAFETY of every block below and above: `Avx2` is named only by `by_bytes!`, in a function compiled for these features that is
// entered where all were detected; pointers are the caller's promise.
impl Vector for Avx2 {
    const OUTPUTS: usize = 8;
    const ROWS: usize = 4;
    type Bytes = __m256i;
    type Sums = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn bytes(source: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    #[inline(always)]
    fn halves(bytes: __m256i) -> [__m256i; 2] {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            [
                _mm256_and_si256(bytes, mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
            ]
        }
    }

    #[inline(always)]
    fn no_bytes() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn small_sums<const ROWS: usize>(weights: &[__m256i; LINES], x: [*const i8; ROWS]) -> [__m256i; ROWS] {
        let mut sums = [unsafe { _mm256_setzero_si256() }; ROWS];
        for (sums, x) in sums.iter_mut().zip(x) {
            unsafe { *sums = _mm256_madd_epi16(short_sums(weights, x), _mm256_set1_epi16(1)) }
        }
        sums
    }

    /// Halves of bytes apart: whole bytes times activations would not fit 16 bits.
    #[inline(always)]
    unsafe fn large_sums<const ROWS: usize>(weights: &[__m256i; LINES], x: [*const i8; ROWS]) -> [__m256i; ROWS] {
        let (mut low, mut high) = (*weights, *weights);
        for (line, weights) in weights.iter().enumerate() {
            [low[line], high[line]] = Self::halves(*weights);
        }
        let mut sums = [unsafe { _mm256_setzero_si256() }; ROWS];
        for (sums, x) in sums.iter_mut().zip(x) {
            unsafe {
                let low = _mm256_madd_epi16(short_sums(&low, x), _mm256_set1_epi16(1));
                let high = _mm256_madd_epi16(short_sums(&high, x), _mm256_set1_epi16(16));
                *sums = _mm256_add_epi32(low, high);
            }
        }
        sums
    }

    #[inline(always)]
    fn of_sums(sums: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn of_bytes(bytes: __m256i) -> [__m256; 4] {
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let parts = [
                _mm256_and_si256(bytes, mask),
                _mm256_and_si256(_mm256_srli_epi32::<8>(bytes), mask),
                _mm256_and_si256(_mm256_srli_epi32::<16>(bytes), mask),
                _mm256_srli_epi32::<24>(bytes),
            ];
            [
                _mm256_cvtepi32_ps(parts[0]),
                _mm256_cvtepi32_ps(parts[1]),
                _mm256_cvtepi32_ps(parts[2]),
                _mm256_cvtepi32_ps(parts[3]),
            ]
        }
    }

    #[inline(always)]
    fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn scales(source: *const u8, scale_type: ScaleType) -> __m256 {
        unsafe {
            match scale_type {
                ScaleType::Float32 => _mm256_loadu_ps(source.cast()),
                ScaleType::Float16 => _mm256_cvtph_ps(_mm_loadu_si128(source.cast())),
                ScaleType::Bfloat16 => {
                    let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(source.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store(floats: __m256, target: *mut f32) {
        unsafe { _mm256_storeu_ps(target, floats) }
    }
}
