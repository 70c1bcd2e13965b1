//! Products with quantised weights, and rows of them.

use kr_kernels::profile::{Part, measure};
use kr_kernels::quantized::{Products, take_rows};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::linear::rows;
use super::memory::{fresh, read, write};
use crate::layers::dim;
use crate::prepared::PackedMatrix;

/// A layer's quantised weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedWeight<'a> {
    pub(crate) matrix: &'a PackedMatrix,
    /// `[outputs]`.
    pub(crate) bias: Option<&'a Array>,
}

impl PackedWeight<'_> {
    pub(crate) fn outputs(&self) -> usize {
        self.matrix.layout().outputs()
    }

    fn read(&self) -> Result<kr_kernels::quantized::Weight<'_>> {
        Ok(self.matrix.weight(self.bias.map(read).transpose()?))
    }
}

impl OwnKernels {
    /// Several layers side by side, onto `residual`. `x`: `[rows, inputs]` → `[rows, outputs of all]`, the shape of `residual`.
    pub(crate) fn packed_linear(
        &self,
        x: &Array,
        weights: &[PackedWeight<'_>],
        residual: Option<&Array>,
    ) -> Result<Array> {
        let mut out = fresh::<f32>(&[x.dim(0), dim(weights.iter().map(PackedWeight::outputs).sum())])?;
        let weights: Vec<_> = weights.iter().map(PackedWeight::read).collect::<Result<_>>()?;
        let residual = residual.map(read).transpose()?;
        self.products(x)?.linear(&weights, residual, write(&mut out)?);
        Ok(out)
    }

    /// `g · sigmoid(g) · u` of the layers `[g, u]`. `x`: `[rows, inputs]` → `[rows, outputs]`.
    pub(crate) fn packed_gated(&self, x: &Array, [gate, up]: [PackedWeight<'_>; 2]) -> Result<Array> {
        let mut out = fresh::<f32>(&[x.dim(0), dim(gate.outputs())])?;
        let weights = [gate.read()?, up.read()?];
        self.products(x)?.gated(weights, write(&mut out)?);
        Ok(out)
    }

    /// `indices`: `[n]`, int32 → `[n, inputs]`.
    ///
    /// # Errors
    /// When an index is none of a row.
    pub(crate) fn packed_rows(&self, matrix: &PackedMatrix, indices: &Array) -> Result<Array> {
        let _measure = measure(Part::Gather);
        let layout = matrix.layout();
        let mut out = fresh::<f32>(&[indices.dim(0), dim(layout.inputs())])?;
        let row = |index: &i32| usize::try_from(*index).ok().filter(|index| *index < layout.outputs());
        let indices: Option<Vec<_>> = read::<i32>(indices)?.iter().map(row).collect();
        let indices = indices.ok_or("there is no row of this index")?;
        take_rows(matrix.weight(None), indices.into_iter(), write(&mut out)?);
        Ok(out)
    }

    fn products<'a>(&'a self, x: &'a Array) -> Result<Products<'a>> {
        Ok(Products {
            machine: &self.machine,
            method: self.method,
            x: rows(x)?,
        })
    }
}
