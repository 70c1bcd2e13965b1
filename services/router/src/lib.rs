//! The router: who may run, when and where. Knows no MLX.
//!
//! The way of a request, by file: `server` (layers) → `generate` (storyboard) → `validate` → `admission` → `dispatch`
//! (`queue`, `batch`, `policy`, `workers`) → `relay` → the client. `process` starts and stops it all.

#![forbid(unsafe_code)]

// Edge: the clients' wire, text, validation.
mod admission;
mod auth;
mod call;
mod catalog;
mod chat;
mod config;
mod error;
mod generate;
mod health;
mod http;
mod inference;
mod models;
mod plan;
mod process;
mod record;
mod reflection;
mod relay;
mod server;
mod status;
mod tokenize;
mod validate;

// Inside: token ids only.
mod adaptive;
mod batch;
mod clock;
mod coalesce;
mod convert_worker;
mod dispatch;
mod fairness;
mod metrics;
mod policy;
mod queue;
mod sequence;
mod workers;

use std::process::ExitCode;

/// Runs the process to its end.
#[must_use]
pub fn run() -> ExitCode {
    process::run()
}
