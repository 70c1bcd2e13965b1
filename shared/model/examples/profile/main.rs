//! Where a step's time goes: `profile DIR [DIR …]` runs decode steps of 1, 8 and 32 sequences and prompts of 128 and 512 tokens of
//! each model through the engine, prints one line of JSON for each case and a table at the end, beside the machine's limits.

mod cases;
mod report;
mod timed;

use std::path::PathBuf;

use kr_kernels::{Machine, limits};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        return Err("usage: profile DIR [DIR …]".into());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, threads] {
        let machine = Machine::new(threads);
        report::limits(
            &machine,
            limits::read_rate(&machine, 256 << 20),
            limits::multiply_add_rate(&machine),
        );
    }
    let mut profiles = Vec::new();
    for folder in &folders {
        for case in cases::CASES {
            let profile = cases::run(folder, case)?;
            report::line(&profile);
            profiles.push(profile);
        }
    }
    report::table(&profiles);
    Ok(())
}
