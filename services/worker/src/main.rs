//! kr-worker: one model's engine behind gRPC (kr.worker.v1). See `run` for its life and `session` for the protocol.

#![forbid(unsafe_code)]

mod address_file;
mod blas;
mod config;
mod convert;
mod engine;
mod error;
mod exit;
mod fake;
mod lifeline;
mod listen;
mod memory;
mod metrics;
mod model;
mod options;
mod profile;
mod readiness;
mod run;
mod server;
mod session;
mod start;
mod status;
mod trace;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use options::Options;

fn main() -> ExitCode {
    let started = Instant::now();
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let code = if error.use_stderr() {
                kr_boot::exit::CONFIGURATION
            } else {
                0
            };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match start::start(options, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = kr_boot::exit::report("kr-worker", &error);
            match error {
                error::Error::NotLoaded(_) => ExitCode::from(error::NOT_LOADED),
                _ => code,
            }
        }
    }
}
