//! Rotary positions.

use std::sync::Arc;

use kr_kernels::RotaryTable;
use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

use super::{LayerLoader, dim};
use crate::attention::{Heads, RotaryAttention};
use crate::cuda::{DecodeAttention, Decoding};
use crate::kernels::Rotary;

/// How far positions turn the elements of a head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotation {
    /// One for each pair of elements: at position p it is turned by p / period. Elements behind the last pair stay.
    pub(crate) periods: Vec<f64>,
    /// What the turned elements are multiplied by.
    pub(crate) scale: f32,
}

/// How queries see keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sight {
    /// What their products are multiplied by.
    pub(crate) scale: f32,
    /// Positions that a token sees, its own included; `None` for all up to its own.
    pub(crate) window: Option<usize>,
}

impl LayerLoader<'_> {
    /// Attention that is alike in several layers.
    pub(crate) fn rotary_attention(&self, heads: Heads, rotation: &Rotation, sight: Sight) -> RotaryAttention {
        let rope = Rope::new(heads.head_dim, rotation);
        let own = self.own.clone().map(|kernels| {
            let table = RotaryTable::new(&rotation.periods, self.positions);
            let table = match rotation.scale {
                1.0 => table,
                scale => table.scaled(scale),
            };
            let rotary = Rotary {
                heads,
                table: Arc::new(table),
                scale: sight.scale,
                window: sight.window,
            };
            (kernels, rotary)
        });
        let cuda = self.cuda.then_some(Decoding {
            heads,
            periods: &rope.periods,
            turned_scale: rotation.scale,
            scale: sight.scale,
            window: sight.window,
        });
        let cuda = cuda.as_ref().and_then(DecodeAttention::new);
        RotaryAttention {
            heads,
            sight,
            rope,
            own,
            cuda,
        }
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated against each other as in Hugging Face's
/// implementation.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// Elements that are turned.
    width: i32,
    /// `[width / 2]`, float32.
    periods: Array,
    /// `[head_dim]`, float32: what elements are multiplied by, if that is not one for all.
    scales: Option<Array>,
}

impl Rope {
    fn new(head_dim: i32, rotation: &Rotation) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the type that is computed with"
        )]
        let periods: Vec<f32> = rotation.periods.iter().map(|period| *period as f32).collect();
        let width = dim(periods.len() * 2);
        let scales: Vec<f32> = (0..head_dim)
            .map(|element| if element < width { rotation.scale } else { 1.0 })
            .collect();
        let scaled = scales.iter().any(|scale| *scale != 1.0);
        Self {
            width,
            periods: Array::from_slice(&periods, &[dim(periods.len())]),
            scales: scaled.then(|| Array::from_slice(&scales, &[head_dim])),
        }
    }

    /// `x`: `[tokens, heads, head_dim]`, `positions`: `[tokens]`, int32 → the shape of `x`.
    pub(crate) fn forward(&self, x: &Array, positions: &Array) -> Result<Array> {
        let shape = x.shape().to_vec();
        let x = match &self.scales {
            None => x.clone(),
            Some(scales) => x.multiply(scales.as_dtype(x.dtype())?)?,
        };
        let rows = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
        fast::rope_dynamic(&rows, self.width, false, None, 1.0, positions, &self.periods)?.reshape(&shape)
    }
}
