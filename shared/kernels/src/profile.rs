//! Where the time of kernels goes: counted by name while a switch is on. Switched off, a kernel pays one look at the switch.
//!
//! One account for the whole process; times are those of the calling thread, from call to return.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What is counted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Rows of an embedding or of hidden states.
    Gather,
    /// Root mean square normalisation.
    Norm,
    /// Products with dense weights.
    Linear,
    /// Gated feed-forward products with dense weights.
    Gated,
    /// Products with quantised weights, gated ones included.
    Quantized,
    /// Elementwise gates, and what else runs over activations alone.
    Activation,
    /// Preparing keys and writing keys and values.
    KvWrite,
    /// Attention over what is written.
    Attention,
    /// Waiting for other threads at the end of a kernel: contained in the kernel's own time.
    PoolWait,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 9] = [
        Self::Gather,
        Self::Norm,
        Self::Linear,
        Self::Gated,
        Self::Quantized,
        Self::Activation,
        Self::KvWrite,
        Self::Attention,
        Self::PoolWait,
    ];

    /// Returns the name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gather => "gather",
            Self::Norm => "norm",
            Self::Linear => "linear",
            Self::Gated => "gated",
            Self::Quantized => "quantized",
            Self::Activation => "activation",
            Self::KvWrite => "kv_write",
            Self::Attention => "attention",
            Self::PoolWait => "pool_wait",
        }
    }
}

/// Calls of a part and the time they took together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Number of calls.
    pub calls: u64,
    /// Their time.
    pub time: Duration,
}

struct Account {
    calls: AtomicU64,
    nanos: AtomicU64,
}

static ON: AtomicBool = AtomicBool::new(false);
static ACCOUNTS: [Account; Part::ALL.len()] = [const {
    Account {
        calls: AtomicU64::new(0),
        nanos: AtomicU64::new(0),
    }
}; Part::ALL.len()];

/// Switches counting on or off.
pub fn count(on: bool) {
    ON.store(on, Relaxed);
}

/// Returns what was counted since the last call, by part, and starts anew.
#[must_use]
pub fn take() -> Vec<(Part, Count)> {
    let parts = Part::ALL.into_iter().zip(&ACCOUNTS);
    parts
        .map(|(part, account)| {
            let count = Count {
                calls: account.calls.swap(0, Relaxed),
                time: Duration::from_nanos(account.nanos.swap(0, Relaxed)),
            };
            (part, count)
        })
        .collect()
}

/// Counts a call of `part`, from now until the result is dropped.
#[must_use]
pub fn measure(part: Part) -> Measure {
    Measure {
        part,
        started: ON.load(Relaxed).then(Instant::now),
    }
}

/// A call that is counted when it ends.
#[derive(Debug)]
pub struct Measure {
    part: Part,
    started: Option<Instant>,
}

impl Drop for Measure {
    fn drop(&mut self) {
        if let Some(started) = self.started {
            let account = &ACCOUNTS[self.part as usize];
            account.calls.fetch_add(1, Relaxed);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            account.nanos.fetch_add(nanos, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, since the account is the process's.
    #[test]
    fn calls_are_counted_while_the_switch_is_on() {
        let gathers = |taken: Vec<(Part, Count)>| taken[Part::Gather as usize].1.calls;
        drop(measure(Part::Gather));
        assert_eq!(gathers(take()), 0);
        count(true);
        drop(measure(Part::Gather));
        drop(measure(Part::Gather));
        count(false);
        assert_eq!(gathers(take()), 2);
        assert_eq!(gathers(take()), 0);
        assert!(
            Part::ALL
                .iter()
                .enumerate()
                .all(|(place, part)| *part as usize == place)
        );
    }
}
