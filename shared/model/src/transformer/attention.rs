//! Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) between its projections.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use super::{SelfAttention, Shape};
use crate::attention::{NewHeads, RotaryAttention};
use crate::error::Result;
use crate::kv::LayerKv;
use crate::layers::{LayerLoader, Linear, RmsNorm, project};
use crate::step::StepLayout;

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Biases {
    /// `q_proj`, `k_proj` and `v_proj`.
    pub(crate) inputs: bool,
    /// `o_proj`.
    pub(crate) output: bool,
}

impl Biases {
    pub(crate) const NONE: Self = Self::all(false);

    pub(crate) const fn all(there: bool) -> Self {
        Self {
            inputs: there,
            output: there,
        }
    }
}

/// `q_proj`, `k_proj`, `v_proj`, attention, `o_proj`; with `q_norm` and `k_norm` where the architecture has them.
#[derive(Debug)]
pub(crate) struct GroupedAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    /// Of queries and of keys, over each head on its own.
    head_norms: Option<[RmsNorm; 2]>,
    rotary: RotaryAttention,
}

impl GroupedAttention {
    /// `{name}.q_proj` and so on. `rotary` is shared with layers that attend alike.
    pub(crate) fn load(
        loader: &mut LayerLoader<'_>,
        name: &str,
        shape: &Shape,
        (biases, rotary): (Biases, RotaryAttention),
    ) -> Result<Self> {
        let (queries, keys) = (shape.queries(), shape.keys());
        let Biases { inputs, output } = biases;
        Ok(Self {
            q_proj: loader.linear(&format!("{name}.q_proj"), shape.inward(queries), inputs)?,
            k_proj: loader.linear(&format!("{name}.k_proj"), shape.inward(keys), inputs)?,
            v_proj: loader.linear(&format!("{name}.v_proj"), shape.inward(keys), inputs)?,
            o_proj: loader.linear(&format!("{name}.o_proj"), shape.outward(queries), output)?,
            head_norms: None,
            rotary,
        })
    }

    /// Adds `{name}.q_norm` and `{name}.k_norm`.
    pub(crate) fn with_head_norms(mut self, loader: &mut LayerLoader<'_>, name: &str, shape: &Shape) -> Result<Self> {
        let mut norm = |which| loader.rms_norm(&format!("{name}.{which}"), shape.head_dim, shape.norm);
        self.head_norms = Some([norm("q_norm")?, norm("k_norm")?]);
        Ok(self)
    }

    /// `x`: `[tokens, hidden]` → the same shape.
    pub(crate) fn forward(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        self.o_proj.forward(&self.attend(x, layout, kv)?)
    }

    fn attend(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let new = NewHeads {
            parts: project([&self.q_proj, &self.k_proj, &self.v_proj], x)?,
            norms: self.head_norms.as_ref(),
        };
        self.rotary.forward(&new, layout, kv)
    }
}

impl SelfAttention for GroupedAttention {
    fn forward_onto(&self, residual: &Array, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        self.o_proj.forward_onto(residual, &self.attend(x, layout, kv)?)
    }
}
