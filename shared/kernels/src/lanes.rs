//! Float32 side by side: what kernels are written in.
#![expect(unsafe_code, reason = "vector instructions and loads through pointers")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// The most lanes that a vector has.
pub(crate) const MOST_LANES: usize = 16;

/// Some float32 in one vector. Every method is inlined into a function compiled for the instruction set.
pub(crate) trait Lanes: Copy {
    /// How many: 8 or 16.
    const LANES: usize;

    /// The same value in every lane.
    fn splat(value: f32) -> Self;

    /// Reads a vector.
    ///
    /// # Safety
    /// As many values must be readable at `source` as there are lanes.
    unsafe fn load(source: *const f32) -> Self;

    /// Reads a vector of bfloat16, whose values are float32 cut short.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_bfloat16(source: *const u16) -> Self;

    /// Reads a vector of float16.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_float16(source: *const u16) -> Self;

    /// Writes a vector.
    ///
    /// # Safety
    /// As many values must be writable at `target` as there are lanes.
    unsafe fn store(self, target: *mut f32);

    /// Reads the first values.
    #[inline(always)]
    fn from_slice(values: &[f32]) -> Self {
        assert!(values.len() >= Self::LANES);
        // SAFETY: as many values are there.
        unsafe { Self::load(values.as_ptr()) }
    }

    /// Writes the first values.
    #[inline(always)]
    fn write_to(self, values: &mut [f32]) {
        assert!(values.len() >= Self::LANES);
        // SAFETY: as many values are there.
        unsafe { self.store(values.as_mut_ptr()) }
    }

    /// The first lane.
    #[inline(always)]
    fn first(self) -> f32 {
        let mut values = [0.0; MOST_LANES];
        self.write_to(&mut values);
        values[0]
    }

    /// Asks for the cache line at `address`, which need not be readable.
    fn prefetch<T>(address: *const T);

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

    /// The sum of all lanes: halves, then halves of halves.
    fn sum(self) -> f32;

    /// [`sum`](Self::sum) of eight vectors, which together cost less.
    fn sums(vectors: [Self; 8]) -> [f32; 8];

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

#[cfg(test)]
mod tests;
