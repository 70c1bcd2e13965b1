//! Normalisation.

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype, fast};

use super::LayerLoader;
use crate::error;
use crate::kernels::OwnKernels;

/// How an architecture normalises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Norm {
    /// Added to the mean square.
    pub(crate) eps: f32,
    pub(crate) gain: Gain,
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gain {
    Weight,
    /// The weights are kept as distances from one.
    OnePlusWeight,
}

impl LayerLoader<'_> {
    /// `{name}.weight` of `width` elements.
    pub(crate) fn rms_norm(&mut self, name: &str, width: u32, norm: Norm) -> error::Result<RmsNorm> {
        self.parameters += u64::from(width);
        let name = format!("{name}.weight");
        let weight = match norm.gain {
            Gain::Weight => self.weights.dense(&name, &[width], self.dtype)?,
            Gain::OnePlusWeight => {
                // In float32 whatever the model computes in: half precision has too few digits beside the one.
                let sum = self
                    .weights
                    .dense(&name, &[width], Dtype::Float32)?
                    .add(Array::from_f32(1.0))?;
                sum.eval()?;
                sum
            }
        };
        Ok(RmsNorm {
            weight,
            eps: norm.eps,
            dtype: self.dtype,
            own: self.own.clone(),
        })
    }
}

/// Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Array,
    eps: f32,
    /// Type of the results: weights may be of a wider one.
    dtype: Dtype,
    own: Option<OwnKernels>,
}

impl RmsNorm {
    /// What is multiplied by: `[width]`.
    pub(crate) fn weight(&self) -> &Array {
        &self.weight
    }

    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    /// `x`: `[…, width]` → the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        match &self.own {
            Some(own) => own.rms_norm(x, &self.weight, self.eps),
            None => fast::rms_norm(x, Some(&self.weight), self.eps)?.as_dtype(self.dtype),
        }
    }
}
