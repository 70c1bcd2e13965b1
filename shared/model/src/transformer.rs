//! What decoder-only transformers share. An architecture puts these parts together and adds what is special to it.
//!
//! - [`Shape`], [`rope`], [`windows`]: the fields of config.json that most architectures have
//! - [`GroupedAttention`], [`GatedMlp`], [`SparseMoe`]: the layers' parts
//! - [`PreNormLayer`], [`CausalLm`]: a layer in the usual order, and all of them from tokens to logits

pub(crate) mod rope;
pub(crate) mod windows;

mod attention;
mod decoder;
mod mlp;
mod moe;
mod shape;

pub(crate) use attention::{Biases, GroupedAttention};
pub(crate) use decoder::{CausalLm, FeedForward, Layer, PreNormLayer, SelfAttention};
pub(crate) use mlp::GatedMlp;
pub(crate) use moe::{MoeNames, MoeShape, SparseMoe};
pub(crate) use shape::Shape;
