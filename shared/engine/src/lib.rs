//! The step scheduler: which sequences run in which step, and where their KV lies.

#![forbid(unsafe_code)]

pub mod model;
