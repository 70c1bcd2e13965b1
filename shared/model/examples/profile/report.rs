//! Profiles as JSON and as a table.
#![expect(clippy::print_stdout, reason = "the result of a command line program")]

use std::time::Duration;

use kr_kernels::Machine;
use kr_kernels::profile::Part;
use serde_json::{Map, Value, json};

use crate::cases::{Case, Profile};

pub(crate) fn limits(machine: &Machine, bytes_per_s: f64, multiply_adds_per_s: f64) {
    let line = json!({
        "threads": machine.pool.threads(),
        "instructions": machine.instructions.name(),
        "read_gb_per_s": rounded(bytes_per_s / 1e9),
        "multiply_add_gflop_per_s": rounded(2.0 * multiply_adds_per_s / 1e9),
    });
    println!("{line}");
}

/// Names and milliseconds, in the order of a step.
struct Parts {
    rows: Vec<(&'static str, f64)>,
    whole: f64,
}

/// Of the median steps: the middle half by length, so that a busy machine's worst ones do not count.
fn parts(profile: &Profile) -> Parts {
    let whole = |step: &crate::timed::Step| step.engine + step.submit + step.wait;
    // What comes before the first step is no step's.
    let mut steps: Vec<_> = match profile.case {
        Case::Decode(_) => profile.steps.iter().skip(1).collect(),
        Case::Prefill(_) => profile.steps.iter().collect(),
    };
    steps.sort_by_key(|step| whole(step));
    let steps = &steps[steps.len() / 8..(steps.len() * 5).div_ceil(8)];
    let prefill = matches!(profile.case, Case::Prefill(_));
    let mean = |time: &dyn Fn(&crate::timed::Step) -> Duration| {
        let sum: Duration = steps.iter().map(|step| time(step)).sum();
        sum.as_secs_f64() * 1e3 / steps.len().max(1) as f64
    };
    let kernel = |part: Part| mean(&|step| step.kernels[part as usize].1.time);
    let mut rows: Vec<_> = Part::ALL
        .into_iter()
        .filter(|part| *part != Part::PoolWait)
        .map(|part| (part.name(), kernel(part)))
        .collect();
    let kernels: f64 = rows.iter().map(|(_, time)| time).sum();
    let submit = mean(&|step| step.submit);
    rows.push(("layers, arrays, MLX", submit - kernels));
    rows.push(("logits and sampling", mean(&|step| step.wait)));
    let mut whole = submit + mean(&|step| step.wait);
    if !prefill {
        let engine = mean(&|step| step.engine);
        rows.push(("engine and frames", engine));
        whole += engine;
    }
    rows.push(("(of which waiting for threads)", kernel(Part::PoolWait)));
    Parts { rows, whole }
}

pub(crate) fn line(profile: &Profile) {
    let parts = parts(profile);
    let milliseconds: Map<String, Value> = parts
        .rows
        .iter()
        .map(|(name, time)| ((*name).to_owned(), json!(rounded(*time))))
        .collect();
    let tokens = profile.steps.iter().map(|step| step.tokens).max().unwrap_or(0) as f64;
    let line = json!({
        "model": profile.model,
        "case": profile.case.name(),
        "steps": profile.steps.len(),
        "step_ms": rounded(parts.whole),
        "tokens_per_s": rounded(tokens / parts.whole * 1e3),
        "ms": milliseconds,
        "fingerprint": profile.fingerprint,
    });
    println!("{line}");
}

/// One table for each model: parts down, cases across, milliseconds of a step.
pub(crate) fn table(profiles: &[Profile]) {
    for group in profiles.chunk_by(|a, b| a.model == b.model) {
        let columns: Vec<_> = group.iter().map(parts).collect();
        let names: Vec<_> = group.iter().map(|profile| profile.case.name()).collect();
        println!("\n{}: ms of a step\n", group[0].model);
        println!("| part | {} |", names.join(" | "));
        println!("|---|{}", "---|".repeat(names.len()));
        let longest = columns.iter().max_by_key(|column| column.rows.len());
        for (name, _) in longest.map_or(&[][..], |column| &column.rows) {
            let cells = columns.iter().map(|column| {
                let row = column.rows.iter().find(|(other, _)| other == name);
                row.map_or("–".to_owned(), |(_, time)| format!("{time:.3}"))
            });
            println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        let whole = columns.iter().map(|column| format!("{:.3}", column.whole));
        println!("| whole step | {} |", whole.collect::<Vec<_>>().join(" | "));
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
