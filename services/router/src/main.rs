//! `kr-router`: see the library for everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    kr_router::run()
}
