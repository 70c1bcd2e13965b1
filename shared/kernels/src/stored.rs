//! How weights may be stored: in float32, or in sixteen bits that are widened, exactly, when they are read.
#![expect(unsafe_code, reason = "vector loads through pointers")]

use crate::half::{from_bfloat16, from_float16};
use crate::lanes::Lanes;

/// The bits of a bfloat16: a float32 cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bfloat16(pub u16);

/// The bits of a float16 (IEEE 754 binary16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Float16(pub u16);

impl Bfloat16 {
    /// Returns the value.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        from_bfloat16(self.0)
    }
}

impl Float16 {
    /// Returns the value.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        from_float16(self.0)
    }
}

/// The elements of a matrix, row by row.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// In float32.
    Float32(&'a [f32]),
    /// In bfloat16.
    Bfloat16(&'a [Bfloat16]),
    /// In float16.
    Float16(&'a [Float16]),
}

impl<'a> Matrix<'a> {
    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Bfloat16(values) => values.len(),
            Self::Float16(values) => values.len(),
        }
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns some of the elements.
    ///
    /// # Panics
    /// When they are not there.
    #[must_use]
    pub fn part(&self, elements: std::ops::Range<usize>) -> Matrix<'a> {
        match self {
            Self::Float32(values) => Self::Float32(&values[elements]),
            Self::Bfloat16(values) => Self::Bfloat16(&values[elements]),
            Self::Float16(values) => Self::Float16(&values[elements]),
        }
    }

    /// Widens all elements into `out`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn widen(&self, out: &mut [f32]) {
        assert_eq!(self.len(), out.len());
        match self {
            Self::Float32(values) => out.copy_from_slice(values),
            Self::Bfloat16(values) => out
                .iter_mut()
                .zip(*values)
                .for_each(|(out, value)| *out = value.to_f32()),
            Self::Float16(values) => out
                .iter_mut()
                .zip(*values)
                .for_each(|(out, value)| *out = value.to_f32()),
        }
    }
}

/// What a vector of float32 can be read from.
pub(crate) trait Stored: Copy {
    /// Reads a vector.
    ///
    /// # Safety
    /// As many elements must be readable at `source` as there are lanes.
    unsafe fn load<S: Lanes>(source: *const Self) -> S;

    fn value(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Lanes>(source: *const Self) -> S {
        // SAFETY: the caller's promise.
        unsafe { S::load(source) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Stored for Bfloat16 {
    #[inline(always)]
    unsafe fn load<S: Lanes>(source: *const Self) -> S {
        // SAFETY: the caller's promise; the type is its bits.
        unsafe { S::load_bfloat16(source.cast()) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        from_bfloat16(self.0)
    }
}

impl Stored for Float16 {
    #[inline(always)]
    unsafe fn load<S: Lanes>(source: *const Self) -> S {
        // SAFETY: the caller's promise; the type is its bits.
        unsafe { S::load_float16(source.cast()) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        from_float16(self.0)
    }
}
