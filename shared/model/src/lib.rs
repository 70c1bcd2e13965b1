//! Models on MLX: weights mapped from safetensors, layers, architectures, KV arenas and sampling, behind the engine's
//! [`Model`](kr_engine::model::Model) trait. The only crate that names mlx-rs; no array leaves it. Knows no requests and no text.
//!
//! A [`LoadedModel`] stays on the thread that loaded it, drop included.
//!
//! # Layout
//! - [`load`]: config → weights → architecture → [`LoadedModel`]
//! - `config`, `weights`, `digest`: a model directory's files, checked
//! - `layers`, `attention`: the computation, in MLX's operations or our own (`kernels` on the CPU, `cuda`)
//! - `transformer`: what architectures put together; `models/<architecture>`: what is special to each
//! - `kv`, `step`: where KV lies and which tokens of a step see what of it
//! - `limits`: how much KV there is room for
//! - `sample`: from logits to tokens
//! - [`blas`]: which BLAS the process computes with

pub mod blas;

mod attention;
mod config;
mod cuda;
mod digest;
mod error;
mod fingerprint;
mod kernels;

mod kv;
mod layers;
mod limits;
mod load;
mod loaded;
mod models;
mod options;
mod prepared;
mod sample;
mod step;
mod transformer;
mod weights;

pub use digest::tokenizer_digest;
pub use error::Error;
pub use kr_kernels::quantized::Activations;
pub use load::{ModelInfo, QuantizationInfo, load};
pub use loaded::{LoadedModel, Ticket};
pub use options::{ComputeDtype, Kernels, LoadOptions, UnknownDtype};

#[cfg(test)]
mod testing;
