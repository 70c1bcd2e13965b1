//! The layers that architectures are made of, over weights of either form: dense or quantised in groups.
//!
//! Activations are `[tokens, width]`: the tokens of all sequences of a step in one flat batch, so that every matrix product sees
//! all of them.

mod activation;
mod embedding;
mod experts;
mod linear;
mod matrix;
mod norm;
mod rotary;

use mlx_rs::Dtype;

use crate::config::Quantization;
use crate::kernels::OwnKernels;
use crate::prepared::PreparedWeights;
use crate::weights::{Footprint, Weights};

pub(crate) use activation::{Activation, Gate, swiglu};
pub(crate) use embedding::Embedding;
pub(crate) use experts::{ExpertNames, StackedLinear};
pub(crate) use linear::{Linear, Part, project};
pub(crate) use norm::{Gain, Norm, RmsNorm};
pub(crate) use rotary::{Rope, Rotation, Sight};

/// A length of an array. Configurations are checked to be far below the limit.
pub(crate) fn dim(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// Loads layers by their names in the checkpoint.
#[derive(Debug)]
pub(crate) struct LayerLoader<'a> {
    pub(crate) weights: &'a mut Weights,
    pub(crate) quantization: Option<&'a Quantization>,
    /// Type of activations and of dense weights.
    pub(crate) dtype: Dtype,
    /// Kernels of our own, where they can be used.
    pub(crate) own: Option<OwnKernels>,
    /// Whether our kernels for CUDA can be used.
    pub(crate) cuda: bool,
    /// Quantised weights that a file has as our kernels want them.
    pub(crate) prepared: Option<&'a PreparedWeights>,
    /// What the quantised weights of our kernels cost.
    pub(crate) packed: Footprint,
    /// Positions that can occur.
    pub(crate) positions: usize,
    /// Counts weights, packed ones as what they stand for.
    pub(crate) parameters: u64,
    /// Whether a layer's products are left to MLX.
    pub(crate) uses_mlx_products: bool,
}

/// The shape of a matrix as checkpoints store it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixShape {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
}

#[cfg(test)]
pub(crate) mod tests;
