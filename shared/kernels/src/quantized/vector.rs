//! What quantised products are written in: vectors whose lanes are outputs of a panel.
#![expect(unsafe_code, reason = "vector loads through pointers")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512Vnni;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::NeonDot;
pub(super) use portable::Portable;

use super::layout::ScaleType;

/// Lines of four bytes for each output that make a run.
pub(super) const LINES: usize = 8;

/// Vectors of an instruction set. Every method is inlined into a function compiled for it.
pub(super) trait Vector {
    /// Outputs side by side: a divisor of [`PANEL`](super::PANEL).
    const OUTPUTS: usize;

    /// Rows of activations that registers hold beside the weights: 4 or 8.
    const ROWS: usize;

    /// Four bytes for each output.
    type Bytes: Copy;

    /// A whole number for each output.
    type Sums: Copy;

    /// A float32 for each output.
    type Floats: Copy;

    /// Reads bytes.
    ///
    /// # Safety
    /// Four bytes for each output must be readable at `source`.
    unsafe fn bytes(source: *const u8) -> Self::Bytes;

    /// Asks for the cache line at `address`, which need not be readable.
    fn prefetch(address: *const u8);

    /// The lower and the upper half of every byte.
    fn halves(bytes: Self::Bytes) -> [Self::Bytes; 2];

    fn no_bytes() -> Self::Bytes;

    /// Returns each output's sum of the products of its bytes, all below 16, with a run of each row's activations.
    ///
    /// # Safety
    /// A run must be readable at each of `x`.
    unsafe fn small_sums<const ROWS: usize>(weights: &[Self::Bytes; LINES], x: [*const i8; ROWS])
    -> [Self::Sums; ROWS];

    /// Returns each output's sum of the products of its bytes with a run of each row's activations.
    ///
    /// # Safety
    /// A run must be readable at each of `x`.
    unsafe fn large_sums<const ROWS: usize>(weights: &[Self::Bytes; LINES], x: [*const i8; ROWS])
    -> [Self::Sums; ROWS];

    /// Sums are below 2^24: nothing is lost.
    fn of_sums(sums: Self::Sums) -> Self::Floats;

    /// Byte 0, 1, 2 and 3 of each output.
    fn of_bytes(bytes: Self::Bytes) -> [Self::Floats; 4];

    fn splat(value: f32) -> Self::Floats;

    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// `a * b + c`, rounded once.
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Reads a scale for each output.
    ///
    /// # Safety
    /// As many must be readable at `source`.
    unsafe fn scales(source: *const u8, scale_type: ScaleType) -> Self::Floats;

    /// Writes a float for each output.
    ///
    /// # Safety
    /// As many must be writable at `target`.
    unsafe fn store(floats: Self::Floats, target: *mut f32);
}

/// Four activations at `x`, four places on for each `line`.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn quad(x: *const i8, line: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { x.add(4 * line).cast::<i32>().read_unaligned() }
}
