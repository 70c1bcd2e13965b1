//! The step scheduler: which sequences run in which step, and where their KV lies. Knows tokens, slots and durations; no
//! arrays, no transport, no text.
//!
//! # Layout
//! - [`model`]: what the engine asks of a model (the trait `kr-model` implements).
//! - [`SequenceRequest`] and [`Reject`]: what goes in, and why not. [`frame`]: what comes out, once per step.
//! - [`scheduler`]: the pure state machine. Time is an argument; no thread, no channel. `prefix_cache` is its book of what
//!   lies in the model's block store.
//! - [`Engine`]: the loop on the thread that owns the model; [`EngineHandle`] and [`EngineSession`] talk to it.
//! - [`estimate`]: how long the next step will take.
//! - [`fake`]: a model without arrays, for tests and for load tests of everything around the model.

#![forbid(unsafe_code)]

mod engine;
mod error;
pub mod estimate;
pub mod fake;
pub mod frame;
pub mod model;
mod prefix_cache;
mod request;
pub mod scheduler;

pub use engine::{Engine, EngineConfig, EngineHandle, EngineSession, EngineThread, FrameSink, SinkFull, WarmUp};
pub use error::{CommandError, Error};
pub use request::{Reject, SequenceRequest};

/// Returns a length as the 32-bit number the contract counts tokens and sequences in.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
