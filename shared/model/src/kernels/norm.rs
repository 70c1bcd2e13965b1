//! Normalisation.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::memory::{fresh, read, write};

impl OwnKernels {
    /// `x`: `[rows, width]`, `weight`: `[width]` → the shape of `x`.
    pub(crate) fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        let mut out = fresh::<f32>(x.shape())?;
        kr_kernels::rms_norm(&self.machine, read(x)?, read(weight)?, eps, write(&mut out)?);
        Ok(out)
    }
}
