//! Products with weights that are quantised in affine groups, as MLX stores them: `w = scale · q + bias`, with one scale and one
//! bias for each group of a row.
//!
//! Weights are repacked once: sixteen outputs side by side ([`Layout`]). Activations are quantised to int8 in groups of
//! [`RUN`], so that a product is whole numbers but for two factors ([`Activations::Int8`]), or stay float32
//! ([`Activations::Float32`]). Vectors run across outputs, so each output is summed in the order of its inputs, whatever rows are
//! computed with it and on however many threads. All instruction sets ([`ByteInstructions`]) compute bitwise the same products: whole
//! numbers are exact, and what follows is a fixed sequence of multiplications and fused multiply-adds.
//!
//! # The error of int8 activations
//!
//! A run of activations with largest magnitude `a` is rounded to multiples of `a / 127`, so each is off by at most `a / 254`. The
//! products use the rounded activations in both terms, `scale · Σ q x + bias · Σ x`, and are therefore those of the exact weights
//! with the rounded activations: an output is off by at most `Σ_runs a / 254 · Σ |w|`, and by float32's rounding.
//!
//! A run in which any activation is infinite or NaN makes NaN of every output.

mod activations;
mod checksum;
mod float;
mod instructions;
mod int8;
mod layout;
mod linear;
mod pack;
mod panel;
mod rows;
mod vector;

pub use activations::Activations;
pub use checksum::Checksum;
pub use instructions::ByteInstructions;
pub use layout::{Bits, Layout, PANEL, RUN, ScaleType};
pub use linear::{Method, Products, Weight};
pub use pack::{Source, pack_panels};
pub use rows::take_rows;

#[cfg(test)]
mod tests;
