//! Starts the service as its users do, as processes, and talks to it as its clients do.
//!
//! The programs are those beside the test (`cargo build --workspace --bins` first; `make test` does it); the real model is the
//! one that `kr model pull demo` puts into the cache.

#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "that is how a test fails")]

mod answer;
mod collector;
mod http;
mod process;
mod prometheus;
mod raw;
mod service;
mod tools;

pub use answer::{Answer, chat, complete, generate, generate_all, greedy, prompt};
pub use collector::{Collector, Span};
pub use http::get;
pub use process::{Program, Ran, program, run};
pub use prometheus::Prometheus;
pub use raw::call_with_bytes;
pub use service::{Service, ServiceBuilder};
pub use tools::{client_script, demo_gguf, free_port, real_model, rotel, tool, workspace};

use std::time::Duration;

/// The longest any wait in a test takes before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same for an answer: kernels that are compiled to count what tests cover compute some ten times slower.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(240);

/// Calls `check` until it returns something, or fails the test after [`PATIENCE`].
///
/// # Panics
/// When nothing came in time; the message names what was awaited.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
