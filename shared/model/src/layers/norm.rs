//! Normalisation.

use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

use super::LayerLoader;
use crate::error;
use crate::kernels::OwnKernels;

impl LayerLoader<'_> {
    /// `{name}.weight` of `width` elements.
    pub(crate) fn rms_norm(&mut self, name: &str, width: u32, eps: f32) -> error::Result<RmsNorm> {
        self.parameters += u64::from(width);
        let weight = self.weights.dense(&format!("{name}.weight"), &[width], self.dtype)?;
        let own = self.own.clone();
        Ok(RmsNorm { weight, eps, own })
    }
}

/// Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Array,
    eps: f32,
    own: Option<OwnKernels>,
}

impl RmsNorm {
    /// `x`: `[tokens, width]` → the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        match &self.own {
            Some(own) => own.rms_norm(x, &self.weight, self.eps),
            None => fast::rms_norm(x, Some(&self.weight), self.eps),
        }
    }
}
