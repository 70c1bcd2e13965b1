//! Products with float32 weights.

use std::sync::Arc;

use kr_kernels::{Rows, Weight};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::call::{call, fresh};

impl OwnKernels {
    /// Several layers side by side, onto `residual`. `x`: `[rows, inputs]` → `[rows, outputs of all]`, the shape of `residual`.
    pub(crate) fn linear(&self, x: &Array, weights: &[OwnWeight<'_>], residual: Option<&Array>) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let width = x.dim(1).unsigned_abs() as usize;
        let shape = [x.dim(0), weights.iter().map(|weight| weight.matrix.dim(0)).sum()];
        let (mut arrays, biased) = with_weights(x, weights);
        arrays.extend(residual);
        call(&arrays, fresh(&shape), move |arrays, out| {
            let x = Rows {
                values: arrays[0],
                width,
            };
            let (weights, rest) = weights_of(&arrays[1..], &biased);
            kr_kernels::linear(&machine, x, &weights, rest.first().copied(), out);
        })
    }

    /// `g · sigmoid(g) · u` of the layers `[g, u]`. `x`: `[rows, inputs]` → `[rows, outputs]`.
    pub(crate) fn gated(&self, x: &Array, weights: [OwnWeight<'_>; 2]) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let width = x.dim(1).unsigned_abs() as usize;
        let shape = [x.dim(0), weights[0].matrix.dim(0)];
        let (arrays, biased) = with_weights(x, &weights);
        call(&arrays, fresh(&shape), move |arrays, out| {
            let x = Rows {
                values: arrays[0],
                width,
            };
            if let [gate, up] = weights_of(&arrays[1..], &biased).0[..] {
                kr_kernels::gated(&machine, x, [gate, up], out);
            }
        })
    }
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
}

/// `x` and the weights in a row, and which of them have a bias behind them.
fn with_weights<'a>(x: &'a Array, weights: &[OwnWeight<'a>]) -> (Vec<&'a Array>, Vec<bool>) {
    let mut arrays = vec![x];
    for weight in weights {
        arrays.push(weight.matrix);
        arrays.extend(weight.bias);
    }
    (arrays, weights.iter().map(|weight| weight.bias.is_some()).collect())
}

/// The weights of [`with_weights`] as a kernel gets them, and what comes after them.
fn weights_of<'a, 'b>(mut slices: &'b [&'a [f32]], biased: &[bool]) -> (Vec<Weight<'a>>, &'b [&'a [f32]]) {
    let mut weights = Vec::with_capacity(biased.len());
    for biased in biased {
        let (own, rest) = slices.split_at(1 + usize::from(*biased));
        weights.push(Weight {
            matrix: own[0],
            bias: own.get(1).copied(),
        });
        slices = rest;
    }
    (weights, slices)
}
