//! Linear layers, and several of them over one input.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::addmm;
use mlx_rs::ops::indexing::TryIndexOp;

use super::matrix::Matrix;
use super::{LayerLoader, MatrixShape, dim};
use crate::error;
use crate::kernels::{OwnKernels, OwnWeight};

impl LayerLoader<'_> {
    /// `{name}.weight` of `shape.rows` outputs and `shape.columns` inputs, and `{name}.bias` where `bias` says so.
    pub(crate) fn linear(&mut self, name: &str, shape: MatrixShape, bias: bool) -> error::Result<Linear> {
        let weight = self.matrix(name, shape)?;
        let bias_name = format!("{name}.bias");
        if !bias {
            self.weights
                .refuse(&bias_name, "is there, but config.json says this layer has no bias")?;
            return Ok(Linear { weight, bias: None });
        }
        self.parameters += u64::from(shape.rows);
        let bias = self.weights.dense(&bias_name, &[shape.rows], self.dtype)?;
        Ok(Linear {
            weight,
            bias: Some(bias),
        })
    }
}

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// `x`: `[tokens, inputs]` → `[tokens, outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        if let Some((own, weight)) = self.own_weight() {
            return own.linear(x, &[weight], None);
        }
        match (&self.weight, &self.bias) {
            (weight, None) => weight.project(x),
            (Matrix::Dense { transposed, .. }, Some(bias)) => addmm(bias, x, transposed, None, None),
            (weight, Some(bias)) => weight.project(x)?.add(bias),
        }
    }

    /// `residual + y`. `x`: `[tokens, inputs]`, `residual`: `[tokens, outputs]` → the shape of `residual`.
    pub(crate) fn forward_onto(&self, residual: &Array, x: &Array) -> Result<Array> {
        match self.own_weight() {
            Some((own, weight)) => own.linear(x, &[weight], Some(residual)),
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
    let mut parts = Vec::with_capacity(N);
    let own: Option<Vec<_>> = layers.iter().map(|layer| layer.own_weight()).collect();
    if let Some((own, _)) = own.as_ref().and_then(|own| own.first()) {
        let weights: Vec<_> = layers.iter().filter_map(|layer| Some(layer.own_weight()?.1)).collect();
        let rows = own.linear(x, &weights, None)?;
        let mut offset = 0;
        for weight in weights {
            let rows = rows.clone();
            parts.push(Part { rows, offset });
            offset += weight.matrix.dim(0).unsigned_abs() as usize;
        }
    } else {
        for layer in layers {
            let rows = layer.forward(x)?;
            parts.push(Part { rows, offset: 0 });
        }
    }
    parts.try_into().map_err(|_| "a layer is missing".into())
}
