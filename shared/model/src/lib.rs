//! Placeholder.
pub mod blas;
