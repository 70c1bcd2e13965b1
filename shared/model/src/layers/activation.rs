//! The gate of feed-forward layers.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{sigmoid, tanh};
use mlx_rs::{Array, Dtype};

use super::{LayerLoader, Linear, Part, dim};
use crate::cuda;
use crate::kernels::OwnKernels;

/// `silu(gate(x)) · up(x)` with `silu(g) = g · sigmoid(g)` (Shazeer 2020, arXiv 2002.05202). `x`: `[tokens, inputs]` →
/// `[tokens, outputs]`.
pub(crate) fn swiglu(gate: &Linear, up: &Linear, x: &Array) -> Result<Array> {
    if let (Some((own, gate)), Some((_, up))) = (gate.own_weight(), up.own_weight()) {
        return own.gated(x, [gate, up]);
    }
    if let (Some((own, gate)), Some((_, up))) = (gate.packed_weight(), up.packed_weight()) {
        return own.packed_gated(x, [gate, up]);
    }
    let cuda = gate.cuda;
    let (gate, up) = (gate.forward(x)?, up.forward(x)?);
    match cuda {
        true => cuda::swiglu(&gate, &up),
        false => sigmoid(&gate)?.multiply(gate)?.multiply(up),
    }
}

/// What a gate is put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `g · sigmoid(g)`.
    Silu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
}

impl LayerLoader<'_> {
    /// A gate over layers of `width` outputs.
    pub(crate) fn gate(&self, activation: Activation, width: u32) -> Gate {
        Gate {
            activation,
            width: width as usize,
            own: self.own.is_some(),
        }
    }
}

/// `activation(gate) · up` of layers that are computed on their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    activation: Activation,
    width: usize,
    own: bool,
}

impl Gate {
    /// Returns `[tokens, width]`.
    pub(crate) fn forward(&self, [gate, up]: [&Part; 2]) -> Result<Array> {
        if self.own {
            return OwnKernels::gate(self.activation, [gate, up], self.width);
        }
        let columns = |part: &Part| {
            part.rows
                .try_index((.., dim(part.offset)..dim(part.offset + self.width)))
        };
        let (gate, up) = (columns(gate)?, columns(up)?);
        match self.activation {
            Activation::Silu => sigmoid(&gate)?.multiply(gate)?.multiply(up),
            Activation::GeluTanh => gelu_tanh(&gate)?.multiply(up),
        }
    }
}

/// In float32, whatever the type of `x`.
fn gelu_tanh(x: &Array) -> Result<Array> {
    let constant = Array::from_f32;
    let wide = x.as_dtype(Dtype::Float32)?;
    let cube = wide.square()?.multiply(&wide)?.multiply(constant(0.044_715))?;
    let inner = wide.add(cube)?.multiply(constant(std::f32::consts::FRAC_2_PI.sqrt()))?;
    let gelu = tanh(&inner)?
        .add(constant(1.0))?
        .multiply(wide)?
        .multiply(constant(0.5))?;
    gelu.as_dtype(x.dtype())
}
