//! The gated feed-forward layer.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use super::{FeedForward, Shape};
use crate::error::Result;
use crate::layers::{Activation, Gate, LayerLoader, Linear, project, swiglu};

/// `down_proj(activation(gate_proj(x)) · up_proj(x))`.
#[derive(Debug)]
pub(crate) struct GatedMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
    gate: Gate,
}

impl GatedMlp {
    /// `{name}.gate_proj` and so on, with biases or without.
    pub(crate) fn load(
        loader: &mut LayerLoader<'_>,
        name: &str,
        shape: &Shape,
        (activation, bias): (Activation, bool),
    ) -> Result<Self> {
        let width = shape.intermediate_size;
        Ok(Self {
            gate_proj: loader.linear(&format!("{name}.gate_proj"), shape.inward(width), bias)?,
            up_proj: loader.linear(&format!("{name}.up_proj"), shape.inward(width), bias)?,
            down_proj: loader.linear(&format!("{name}.down_proj"), shape.outward(width), bias)?,
            activation,
            gate: loader.gate(activation, width),
        })
    }

    /// `x`: `[tokens, hidden]` → the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        self.down_proj.forward(&self.gated(x)?)
    }

    fn gated(&self, x: &Array) -> MlxResult<Array> {
        match self.activation {
            Activation::Silu => swiglu(&self.gate_proj, &self.up_proj, x),
            Activation::GeluTanh => {
                let [gate, up] = project([&self.gate_proj, &self.up_proj], x)?;
                self.gate.forward([&gate, &up])
            }
        }
    }
}

impl FeedForward for GatedMlp {
    fn forward_onto(&self, residual: &Array, x: &Array) -> MlxResult<Array> {
        self.down_proj.forward_onto(residual, &self.gated(x)?)
    }
}
