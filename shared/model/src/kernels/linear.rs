//! Products with dense weights, stored in float32 or in sixteen bits.

use kr_kernels::{Matrix, Rows, Weight};
use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

use super::OwnKernels;
use super::memory::{fresh, read, write};

impl OwnKernels {
    /// Several layers side by side, onto `residual`. `x`: `[rows, inputs]` → `[rows, outputs of all]`, the shape of `residual`.
    pub(crate) fn linear(&self, x: &Array, weights: &[OwnWeight<'_>], residual: Option<&Array>) -> Result<Array> {
        let mut out = fresh::<f32>(&[x.dim(0), weights.iter().map(|weight| weight.matrix.dim(0)).sum()])?;
        let weights: Vec<_> = weights.iter().map(OwnWeight::read).collect::<Result<_>>()?;
        let residual = residual.map(read).transpose()?;
        kr_kernels::linear(&self.machine, rows(x)?, &weights, residual, write(&mut out)?);
        Ok(out)
    }

    /// `g · sigmoid(g) · u` of the layers `[g, u]`. `x`: `[rows, inputs]` → `[rows, outputs]`.
    pub(crate) fn gated(&self, x: &Array, [gate, up]: [OwnWeight<'_>; 2]) -> Result<Array> {
        let mut out = fresh::<f32>(&[x.dim(0), gate.matrix.dim(0)])?;
        let weights = [gate.read()?, up.read()?];
        kr_kernels::gated(&self.machine, rows(x)?, weights, write(&mut out)?);
        Ok(out)
    }
}

pub(super) fn rows(x: &Array) -> Result<Rows<'_>> {
    Ok(Rows {
        values: read(x)?,
        width: x.dim(1).unsigned_abs() as usize,
    })
}

/// The elements of a matrix as they are stored.
pub(super) fn matrix(array: &Array) -> Result<Matrix<'_>> {
    Ok(match array.dtype() {
        Dtype::Bfloat16 => Matrix::Bfloat16(read(array)?),
        Dtype::Float16 => Matrix::Float16(read(array)?),
        _ => Matrix::Float32(read(array)?),
    })
}

/// A layer's weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnWeight<'a> {
    /// `[outputs, inputs]`.
    pub(crate) matrix: &'a Array,
    /// `[outputs]`.
    pub(crate) bias: Option<&'a Array>,
}

impl<'a> OwnWeight<'a> {
    pub(crate) fn new(matrix: &'a Array) -> Self {
        Self { matrix, bias: None }
    }

    fn read(&self) -> Result<Weight<'a>> {
        Ok(Weight {
            matrix: matrix(self.matrix)?,
            bias: self.bias.map(read).transpose()?,
        })
    }
}
