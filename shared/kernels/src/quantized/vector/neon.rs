//! NEON with dot products: four outputs, four products and their sum in one instruction.
#![expect(unsafe_code, reason = "vector instructions and loads through pointers")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "one note for all, below")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{LINES, Vector, quad};
use crate::quantized::ScaleType;

/// NEON with the dot products of Armv8.2.
#[derive(Debug, Clone, Copy)]
pub(in crate::quantized) enum NeonDot {}

/// Adds four signed products to each lane of `sums`. The intrinsic for it is not stable yet.
#[inline(always)]
unsafe fn dot(mut sums: int32x4_t, weights: uint8x16_t, x: int32x4_t) -> int32x4_t {
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

// SAFETY of every block below and above: `NeonDot` is named only by `by_bytes!`, in a function compiled for these features that is
// entered where all were detected; pointers are the caller's promise.
impl Vector for NeonDot {
    const OUTPUTS: usize = 4;
    const ROWS: usize = 8;
    type Bytes = uint8x16_t;
    type Sums = int32x4_t;
    type Floats = float32x4_t;

    #[inline(always)]
    unsafe fn bytes(source: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(source) }
    }

    #[inline(always)]
    fn halves(bytes: uint8x16_t) -> [uint8x16_t; 2] {
        unsafe { [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)] }
    }

    #[inline(always)]
    fn no_bytes() -> uint8x16_t {
        unsafe { vdupq_n_u8(0) }
    }

    #[inline(always)]
    fn prefetch(_: *const u8) {}

    /// Rows in turn, because each sum has to wait for its last product.
    #[inline(always)]
    unsafe fn small_sums<const ROWS: usize>(weights: &[uint8x16_t; LINES], x: [*const i8; ROWS]) -> [int32x4_t; ROWS] {
        let mut sums = [unsafe { vdupq_n_s32(0) }; ROWS];
        for (line, weights) in weights.iter().enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                unsafe { *sums = dot(*sums, *weights, vdupq_n_s32(quad(x, line))) }
            }
        }
        sums
    }

    /// Halves of bytes apart: the dot product takes bytes as signed.
    #[inline(always)]
    unsafe fn large_sums<const ROWS: usize>(weights: &[uint8x16_t; LINES], x: [*const i8; ROWS]) -> [int32x4_t; ROWS] {
        let (mut low, mut high) = (*weights, *weights);
        for (line, weights) in weights.iter().enumerate() {
            [low[line], high[line]] = Self::halves(*weights);
        }
        unsafe {
            let mut sums = Self::small_sums(&low, x);
            for (sums, high) in sums.iter_mut().zip(Self::small_sums(&high, x)) {
                *sums = vaddq_s32(*sums, vshlq_n_s32::<4>(high));
            }
            sums
        }
    }

    #[inline(always)]
    fn of_sums(sums: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(sums) }
    }

    #[inline(always)]
    fn of_bytes(bytes: uint8x16_t) -> [float32x4_t; 4] {
        unsafe {
            let words = vreinterpretq_u32_u8(bytes);
            let mask = vdupq_n_u32(0xff);
            [
                vcvtq_f32_u32(vandq_u32(words, mask)),
                vcvtq_f32_u32(vandq_u32(vshrq_n_u32::<8>(words), mask)),
                vcvtq_f32_u32(vandq_u32(vshrq_n_u32::<16>(words), mask)),
                vcvtq_f32_u32(vshrq_n_u32::<24>(words)),
            ]
        }
    }

    #[inline(always)]
    fn splat(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn scales(source: *const u8, scale_type: ScaleType) -> float32x4_t {
        unsafe {
            match scale_type {
                ScaleType::Float32 => vld1q_f32(source.cast()),
                ScaleType::Float16 => {
                    let halves = vmovl_u16(vld1_u16(source.cast()));
                    let magnitude = vshlq_n_u32::<13>(vandq_u32(halves, vdupq_n_u32(0x7fff)));
                    let sign = vshlq_n_u32::<16>(vandq_u32(halves, vdupq_n_u32(0x8000)));
                    // A binary16's exponent counts from 112 less; stored scales are finite.
                    let power = vreinterpretq_f32_u32(vdupq_n_u32((127 + 112) << 23));
                    let value = vmulq_f32(vreinterpretq_f32_u32(magnitude), power);
                    vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign))
                }
                ScaleType::Bfloat16 => {
                    let halves = vmovl_u16(vld1_u16(source.cast()));
                    vreinterpretq_f32_u32(vshlq_n_u32::<16>(halves))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store(floats: float32x4_t, target: *mut f32) {
        unsafe { vst1q_f32(target, floats) }
    }
}
