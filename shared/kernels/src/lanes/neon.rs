//! Eight lanes: two vectors of NEON.

use std::arch::aarch64::*;

use super::Lanes;

/// Two times four lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(float32x4_t, float32x4_t);

impl Neon {
    #[inline(always)]
    fn zip(self, other: Self, combine: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(combine(self.0, other.0), combine(self.1, other.1))
    }
}

// SAFETY of every block below: NEON is part of every aarch64 processor; pointers are the caller's promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one note for all, above")]
impl Lanes for Neon {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        unsafe { Self(vld1q_f32(source), vld1q_f32(source.add(4))) }
    }

    #[inline(always)]
    unsafe fn load_bfloat16(source: *const u16) -> Self {
        unsafe {
            let halves = vld1q_u16(source);
            let low = vshll_n_u16::<16>(vget_low_u16(halves));
            let high = vshll_n_u16::<16>(vget_high_u16(halves));
            Self(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }

    #[inline(always)]
    unsafe fn load_float16(source: *const u16) -> Self {
        let halves = unsafe { source.cast::<[u16; 8]>().read_unaligned() };
        let values = halves.map(crate::half::from_float16);
        unsafe { Self::load(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        unsafe {
            vst1q_f32(target, self.0);
            vst1q_f32(target.add(4), self.1);
        }
    }

    // The intrinsic is not stable, and these processors' own prefetching follows rows well.
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe {
            Self(
                vfmaq_f32(addend.0, self.0, factor.0),
                vfmaq_f32(addend.1, self.1, factor.1),
            )
        }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        unsafe { Self(vrndnq_f32(self.0), vrndnq_f32(self.1)) }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        let power = |value| unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(value), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        };
        Self(power(self.0), power(self.1))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let halves = vaddq_f32(self.0, self.1);
            let quarters = vadd_f32(vget_low_f32(halves), vget_high_f32(halves));
            vget_lane_f32::<0>(quarters) + vget_lane_f32::<1>(quarters)
        }
    }

    #[inline(always)]
    fn sums(vectors: [Self; 8]) -> [f32; 8] {
        vectors.map(Self::sum)
    }
}
