//! Eight lanes in plain Rust, left to the compiler's vectoriser.

use super::Lanes;

const LANES: usize = 8;

/// Plain Rust, left to the compiler's vectoriser.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, combine: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| combine(self.0[lane], other.0[lane])))
    }
}

impl Lanes for Portable {
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's promise; float arrays need no alignment here.
        unsafe { Self(source.cast::<[f32; LANES]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_bfloat16(source: *const u16) -> Self {
        // SAFETY: the caller's promise.
        let halves = unsafe { source.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }

    #[inline(always)]
    unsafe fn load_float16(source: *const u16) -> Self {
        // SAFETY: the caller's promise.
        let halves = unsafe { source.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(crate::half::from_float16))
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { target.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn prefetch<T>(_: *const T) {}

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            scalar_mul_add(self.0[lane], factor.0[lane], addend.0[lane])
        }))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers of a few digits")]
        Self(
            self.0
                .map(|exponent| f32::from_bits(((exponent as i32 + 127) << 23).cast_unsigned())),
        )
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn sums(vectors: [Self; 8]) -> [f32; 8] {
        vectors.map(Self::sum)
    }
}

/// Fused where the target always can; elsewhere the fused form would be a call of a library.
#[inline(always)]
fn scalar_mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}
