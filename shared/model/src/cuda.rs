//! Kernels of our own for CUDA, compiled by MLX at their first use: decode steps of small models are bound by the number of
//! operations that are launched, not by what these compute, so one kernel takes the place of many operations.

mod attention;
mod gate;
mod kernel;

pub(crate) use attention::{DecodeAttention, Decoding};
pub(crate) use gate::swiglu;

/// The name in the numerics fingerprint.
pub(crate) const KERNEL_SET: &str = "kr-cuda";
