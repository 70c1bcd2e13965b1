//! Rotary positions.

use std::sync::Arc;

use kr_kernels::RotaryTable;
use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

use super::{LayerLoader, dim};
use crate::attention::{Heads, RotaryAttention, inverse_root};
use crate::kernels::Rotary;

impl LayerLoader<'_> {
    /// Attention with rotary positions of base `theta`, for all layers.
    pub(crate) fn rotary_attention(&self, heads: Heads, theta: f64) -> RotaryAttention {
        let rope = Rope::new(heads.head_dim.unsigned_abs(), theta);
        let own = self.own.clone().map(|kernels| {
            let table = Arc::new(RotaryTable::new(&rope.periods, self.positions));
            let rotary = Rotary {
                heads,
                table,
                scale: inverse_root(heads),
                window: None,
            };
            (kernels, rotary)
        });
        RotaryAttention { heads, rope, own }
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated against each other as in Hugging Face's
/// implementation.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    head_dim: i32,
    /// θ^(2i / head_dim) for each pair i of a head.
    periods: Vec<f64>,
    /// `[head_dim / 2]`: the same, float32.
    frequencies: Array,
}

impl Rope {
    pub(crate) fn new(head_dim: u32, theta: f64) -> Self {
        let periods: Vec<f64> = (0..head_dim / 2)
            .map(|index| theta.powf(f64::from(2 * index) / f64::from(head_dim)))
            .collect();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the type that is computed with"
        )]
        let rounded: Vec<f32> = periods.iter().map(|period| *period as f32).collect();
        Self {
            head_dim: head_dim.cast_signed(),
            periods,
            frequencies: Array::from_slice(&rounded, &[dim(rounded.len())]),
        }
    }

    /// `x`: `[tokens, heads, head_dim]`, `positions`: `[tokens]`, int32 → the shape of `x`.
    pub(crate) fn forward(&self, x: &Array, positions: &Array) -> Result<Array> {
        let shape = x.shape().to_vec();
        let rows = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
        fast::rope_dynamic(&rows, self.head_dim, false, None, 1.0, positions, &self.frequencies)?.reshape(&shape)
    }
}
