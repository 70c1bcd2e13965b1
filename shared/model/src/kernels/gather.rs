//! Rows of a matrix.

use kr_kernels::profile::{Part, measure};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::linear::matrix as stored;
use super::memory::{fresh, read, write};

impl OwnKernels {
    /// `matrix`: `[rows, width]`, `indices`: `[n]`, int32 → `[n, width]`, float32.
    ///
    /// # Errors
    /// When an index is none of a row.
    pub(crate) fn rows(&self, matrix: &Array, indices: &Array) -> Result<Array> {
        let _measure = measure(Part::Gather);
        let width = matrix.dim(1).unsigned_abs() as usize;
        let mut out = fresh::<f32>(&[indices.dim(0), matrix.dim(1)])?;
        let (source, indices) = (stored(matrix)?, read::<i32>(indices)?);
        for (index, target) in indices.iter().zip(write::<f32>(&mut out)?.chunks_exact_mut(width)) {
            let row = usize::try_from(*index)
                .ok()
                .filter(|index| *index < source.len() / width);
            let row = row.ok_or("there is no row of this index")?;
            source.part(row * width..(row + 1) * width).widen(target);
        }
        Ok(out)
    }
}
