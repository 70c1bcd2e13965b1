//! Linear layers, and several of them over one input.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::addmm;
use mlx_rs::ops::indexing::TryIndexOp;

use super::matrix::Matrix;
use super::{LayerLoader, MatrixShape, dim};
use crate::error;
use crate::kernels::{OwnKernels, OwnWeight, PackedWeight};

impl LayerLoader<'_> {
    /// `{name}.weight` of `shape.rows` outputs and `shape.columns` inputs, and `{name}.bias` where `bias` says so.
    pub(crate) fn linear(&mut self, name: &str, shape: MatrixShape, bias: bool) -> error::Result<Linear> {
        let weight = self.matrix(name, shape)?;
        let bias_name = format!("{name}.bias");
        if !bias {
            self.weights
                .refuse(&bias_name, "is there, but config.json says this layer has no bias")?;
            return Ok(Linear {
                weight,
                bias: None,
                cuda: self.cuda,
            });
        }
        self.parameters += u64::from(shape.rows);
        let bias = self.weights.dense(&bias_name, &[shape.rows], self.dtype)?;
        Ok(Linear {
            weight,
            bias: Some(bias),
            cuda: self.cuda,
        })
    }
}

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Array>,
    /// Whether our kernels for CUDA can take its results.
    pub(super) cuda: bool,
}

impl Linear {
    /// `x`: `[tokens, inputs]` → `[tokens, outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        if let Some((own, weight)) = self.own_weight() {
            return own.linear(x, &[weight], None);
        }
        if let Some((own, weight)) = self.packed_weight() {
            return own.packed_linear(x, &[weight], None);
        }
        match (&self.weight, &self.bias) {
            (weight, None) => weight.project(x),
            (Matrix::Dense { transposed, .. }, Some(bias)) => addmm(bias, x, transposed, None, None),
            (weight, Some(bias)) => weight.project(x)?.add(bias),
        }
    }

    /// `residual + y`. `x`: `[tokens, inputs]`, `residual`: `[tokens, outputs]` → the shape of `residual`.
    pub(crate) fn forward_onto(&self, residual: &Array, x: &Array) -> Result<Array> {
        if let Some((own, weight)) = self.own_weight() {
            return own.linear(x, &[weight], Some(residual));
        }
        match self.packed_weight() {
            Some((own, weight)) => own.packed_linear(x, &[weight], Some(residual)),
            None => residual.add(self.forward(x)?),
        }
    }

    /// The weights as our own kernels take them, where they can.
    pub(super) fn own_weight(&self) -> Option<(&OwnKernels, OwnWeight<'_>)> {
        match &self.weight {
            Matrix::Dense {
                weight, own: Some(own), ..
            } => {
                let bias = self.bias.as_ref();
                Some((own, OwnWeight { matrix: weight, bias }))
            }
            _ => None,
        }
    }

    /// The same for quantised weights.
    pub(super) fn packed_weight(&self) -> Option<(&OwnKernels, PackedWeight<'_>)> {
        match &self.weight {
            Matrix::Packed { matrix, own } => {
                let bias = self.bias.as_ref();
                Some((own, PackedWeight { matrix, bias }))
            }
            _ => None,
        }
    }
}

/// A part of each row of an array: what one of several layers makes of a token.
#[derive(Debug)]
pub(crate) struct Part {
    /// `[tokens, stride]`.
    pub(crate) rows: Array,
    /// Where the part begins in a row.
    pub(crate) offset: usize,
}

impl Part {
    /// `[tokens, heads, head_dim]`.
    pub(crate) fn heads(&self, heads: i32, head_dim: i32) -> Result<Array> {
        let (tokens, start) = (self.rows.dim(0), dim(self.offset));
        let part = self.rows.try_index((.., start..start + heads * head_dim))?;
        part.reshape(&[tokens, heads, head_dim])
    }
}

/// Several layers over the same `x`: `[tokens, inputs]`.
pub(crate) fn project<const N: usize>(layers: [&Linear; N], x: &Array) -> Result<[Part; N]> {
    let dense: Option<Vec<_>> = layers.iter().map(|layer| layer.own_weight()).collect();
    let packed: Option<Vec<_>> = layers.iter().map(|layer| layer.packed_weight()).collect();
    let (rows, widths): (_, Vec<_>) = match (&dense.as_deref(), &packed.as_deref()) {
        (Some(dense @ [(own, _), ..]), _) => {
            let weights: Vec<_> = dense.iter().map(|(_, weight)| *weight).collect();
            let width = |weight: &OwnWeight<'_>| weight.matrix.dim(0).unsigned_abs() as usize;
            (own.linear(x, &weights, None)?, weights.iter().map(width).collect())
        }
        (_, Some(packed @ [(own, _), ..])) => {
            let weights: Vec<_> = packed.iter().map(|(_, weight)| *weight).collect();
            let widths = weights.iter().map(PackedWeight::outputs).collect();
            (own.packed_linear(x, &weights, None)?, widths)
        }
        _ => return apart(layers, x),
    };
    let mut offset = 0;
    let part = |width: usize| {
        let part = Part {
            rows: rows.clone(),
            offset,
        };
        offset += width;
        part
    };
    let parts: Vec<_> = widths.into_iter().map(part).collect();
    parts.try_into().map_err(|_| "a layer is missing".into())
}

/// Each layer for itself.
fn apart<const N: usize>(layers: [&Linear; N], x: &Array) -> Result<[Part; N]> {
    let part = |layer: &Linear| {
        let rows = layer.forward(x)?;
        Ok(Part { rows, offset: 0 })
    };
    let parts: Vec<_> = layers.into_iter().map(part).collect::<Result<_>>()?;
    parts.try_into().map_err(|_| "a layer is missing".into())
}
