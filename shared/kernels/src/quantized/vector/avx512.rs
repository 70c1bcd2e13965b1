//! AVX-512 with VNNI: sixteen outputs, four products and their sum in one instruction.
#![expect(unsafe_code, reason = "vector instructions and loads through pointers")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "one note for all, below")]

use std::arch::x86_64::*;

use super::{LINES, Vector, quad};
use crate::quantized::ScaleType;

/// AVX-512 with VNNI.
#[derive(Debug, Clone, Copy)]
pub(in crate::quantized) enum Avx512Vnni {}

// SAFETY of every block below: `Avx512Vnni` is named only by `by_bytes!`, in a function compiled for these features that is entered
// where all were detected; pointers are the caller's promise.
impl Vector for Avx512Vnni {
    const OUTPUTS: usize = 16;
    const ROWS: usize = 8;
    type Bytes = __m512i;
    type Sums = __m512i;
    type Floats = __m512;

    #[inline(always)]
    unsafe fn bytes(source: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    #[inline(always)]
    fn halves(bytes: __m512i) -> [__m512i; 2] {
        unsafe {
            let mask = _mm512_set1_epi8(15);
            [
                _mm512_and_si512(bytes, mask),
                _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
            ]
        }
    }

    #[inline(always)]
    fn no_bytes() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn small_sums<const ROWS: usize>(weights: &[__m512i; LINES], x: [*const i8; ROWS]) -> [__m512i; ROWS] {
        unsafe { Self::large_sums(weights, x) }
    }

    /// Rows in turn, because each sum has to wait for its last product.
    #[inline(always)]
    unsafe fn large_sums<const ROWS: usize>(weights: &[__m512i; LINES], x: [*const i8; ROWS]) -> [__m512i; ROWS] {
        let mut sums = [unsafe { _mm512_setzero_si512() }; ROWS];
        for (line, weights) in weights.iter().enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                unsafe { *sums = _mm512_dpbusd_epi32(*sums, *weights, _mm512_set1_epi32(quad(x, line))) }
            }
        }
        sums
    }

    #[inline(always)]
    fn of_sums(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn of_bytes(bytes: __m512i) -> [__m512; 4] {
        unsafe {
            let mask = _mm512_set1_epi32(0xff);
            let parts = [
                _mm512_and_si512(bytes, mask),
                _mm512_and_si512(_mm512_srli_epi32::<8>(bytes), mask),
                _mm512_and_si512(_mm512_srli_epi32::<16>(bytes), mask),
                _mm512_srli_epi32::<24>(bytes),
            ];
            [
                _mm512_cvtepi32_ps(parts[0]),
                _mm512_cvtepi32_ps(parts[1]),
                _mm512_cvtepi32_ps(parts[2]),
                _mm512_cvtepi32_ps(parts[3]),
            ]
        }
    }

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn scales(source: *const u8, scale_type: ScaleType) -> __m512 {
        unsafe {
            match scale_type {
                ScaleType::Float32 => _mm512_loadu_ps(source.cast()),
                ScaleType::Float16 => _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())),
                ScaleType::Bfloat16 => {
                    let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(source.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, target: *mut f32) {
        unsafe { _mm512_storeu_ps(target, floats) }
    }
}
