//! Eight float32 side by side: what kernels are written in.
#![expect(unsafe_code, reason = "vector instructions and loads through pointers")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Eight float32. Every method is inlined into a function compiled for the instruction set.
pub(crate) trait Lanes: Copy {
    /// The same value in every lane.
    fn splat(value: f32) -> Self;

    /// Reads eight values.
    ///
    /// # Safety
    /// Eight values must be readable at `source`.
    unsafe fn load(source: *const f32) -> Self;

    /// Writes eight values.
    ///
    /// # Safety
    /// Eight values must be writable at `target`.
    unsafe fn store(self, target: *mut f32);

    /// Asks for the cache line at `address`, which need not be readable.
    fn prefetch(address: *const f32);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// `self * factor + addend`, rounded once where the instruction set can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// The larger of each lane; `other`'s where one is NaN.
    fn max(self, other: Self) -> Self;

    /// The smaller of each lane; `other`'s where one is NaN.
    fn min(self, other: Self) -> Self;

    /// To the nearest whole number.
    fn round(self) -> Self;

    /// Two to the power of whole numbers from -126 to 127.
    fn power_of_two(self) -> Self;

    fn to_array(self) -> [f32; LANES];

    /// Reads the first eight values.
    #[inline(always)]
    fn from_slice(values: &[f32]) -> Self {
        assert!(values.len() >= LANES);
        // SAFETY: as many values are there.
        unsafe { Self::load(values.as_ptr()) }
    }

    /// The sum of all lanes: halves, then halves of halves.
    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.to_array();
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    /// e to the power of each lane, to about 2 units in the last place; inputs are clamped to the finite range, NaN stays.
    ///
    /// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf`.
    #[inline(always)]
    fn exp(self) -> Self {
        let x = Self::splat(-87.3).max(Self::splat(88.3).min(self));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(Self::splat(-0.693_359_4), x);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        let mut polynomial = Self::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            polynomial = polynomial.mul_add(r, Self::splat(coefficient));
        }
        let value = polynomial.mul_add(r.mul(r), r.add(Self::splat(1.0)));
        value.mul(n.power_of_two())
    }
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(__m256);

// SAFETY of every block below: `Avx2` is named only by `dispatch!`, in a function compiled for AVX2 and FMA that is entered where
// both were detected; pointers are the caller's promise.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "one note for all, above")]
impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        unsafe { _mm256_storeu_ps(target, self.0) }
    }

    #[inline(always)]
    fn prefetch(address: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn round(self) -> Self {
        unsafe {
            Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
                self.0,
            ))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        unsafe { _mm256_storeu_ps(array.as_mut_ptr(), self.0) }
        array
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe {
            let halves = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let quarters = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(quarters, _mm_shuffle_ps::<1>(quarters, quarters)))
        }
    }
}

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
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { target.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn prefetch(_: *const f32) {}

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
    fn to_array(self) -> [f32; LANES] {
        self.0
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

#[cfg(test)]
mod tests;
