//! Normalisation.

use std::sync::Arc;

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::call::{call, fresh};

impl OwnKernels {
    /// `x`: `[rows, width]`, `weight`: `[width]` → the shape of `x`.
    pub(crate) fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        call(&[x, weight], fresh(x.shape()), move |arrays, out| {
            kr_kernels::rms_norm(&machine, arrays[0], arrays[1], eps, out);
        })
    }
}
