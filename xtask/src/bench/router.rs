//! What the router adds, measured by an example of the integration tests on a worker with fixed steps.

use std::process::Command;

use anyhow::Result;

use crate::{environment, process};

/// Runs the measurement, which prints one JSON object.
///
/// # Errors
/// When it does not build or fails.
pub(super) fn measure() -> Result<()> {
    eprintln!("bench: the router on a worker with fixed steps");
    let mut cargo = Command::new(environment::cargo());
    cargo.args(["run", "--release", "--quiet", "--package", "kr-integration-tests"]);
    process::run(cargo.args(["--example", "router_overhead"]))
}
