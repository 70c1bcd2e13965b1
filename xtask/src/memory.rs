//! How much memory processes take, as the operating system counts it.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process;

/// Memory of some processes together, in megabytes of 10⁶ bytes.
pub(crate) struct Memory {
    /// The most each of them had resident since it started, added up. Pages that two of them share are counted twice.
    pub(crate) peak_rss_mb: f64,
    /// Resident now, shared pages divided among those who share them; `None` where the system does not tell.
    pub(crate) pss_mb: Option<f64>,
}

/// Returns the memory of a process and its children.
///
/// # Errors
/// When the process has ended.
pub(crate) fn of_family(parent: u32) -> Result<Memory> {
    let listing = process::output(Command::new("ps").args(["-A", "-o", "pid=,ppid=,rss="]))?;
    let rows: Vec<[u64; 3]> = listing.lines().filter_map(row).collect();
    let family = rows
        .iter()
        .filter(|[id, of, _]| [*id, *of].contains(&u64::from(parent)));
    let mut memory = Memory {
        peak_rss_mb: 0.0,
        pss_mb: cfg!(target_os = "linux").then_some(0.0),
    };
    for [id, _, resident] in family {
        // A child may have ended since, as `ps` itself has.
        let peak = kibibytes(&format!("/proc/{id}/status"), "VmHWM:");
        let peak = peak.or_else(|| (!cfg!(target_os = "linux")).then_some(*resident));
        memory.peak_rss_mb += peak.map_or(0.0, megabytes);
        if let Some(total) = &mut memory.pss_mb {
            *total += kibibytes(&format!("/proc/{id}/smaps_rollup"), "Pss:").map_or(0.0, megabytes);
        }
    }
    ensure!(memory.peak_rss_mb > 0.0, "process {parent} has ended");
    Ok(memory)
}

fn row(line: &str) -> Option<[u64; 3]> {
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    fields.try_into().ok()
}

fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "no machine has 2^52 kibibytes")]
fn megabytes(kibibytes: u64) -> f64 {
    kibibytes as f64 * 1.024 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_memory() {
        let memory = of_family(std::process::id()).unwrap();
        assert!(memory.peak_rss_mb > 1.0);
        assert!(memory.pss_mb.is_none_or(|pss| pss > 0.5));
    }

    #[test]
    fn a_line_of_another_form_is_no_process() {
        assert_eq!(row("  12    1  340"), Some([12, 1, 340]));
        assert_eq!(row("PID PPID RSS"), None);
    }
}
