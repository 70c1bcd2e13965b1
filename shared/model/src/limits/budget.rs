//! The KV budget where configuration names none.
//!
//! - CPU: an eighth of the machine's memory (of the control group's, where that is less), at most 4 GiB, because several workers share
//!   it; and at most half of what is available beyond the weights, a step's workspace and a reserve of a sixteenth.
//! - GPU: nine tenths of what is available beyond the weights, a step's workspace and MLX's buffer cache. On Metal that is of the
//!   recommended working set. One worker for each GPU; where several share one, their budgets must be configured.
//!
//! A step's workspace is measured by running the widest one: see [`workspace`](super::workspace).

use super::machine::MachineMemory;
use crate::fingerprint::Backend;

/// Bytes of freed buffers that MLX may keep for reuse.
pub(crate) const MLX_CACHE_BYTES: u64 = 1 << 30;
/// Where the system does not tell how much memory there is.
const UNKNOWN: u64 = 2 << 30;
const CPU_MOST: u64 = 4 << 30;

/// What is not for KV, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// Mapped and copied ones.
    pub(crate) weights: u64,
    /// What a step needs beside weights and KV.
    pub(crate) workspace: u64,
}

/// Returns the budget in bytes.
pub(crate) fn budget(backend: Backend, memory: Option<MachineMemory>, taken: Taken) -> u64 {
    let Some(MachineMemory { total, available }) = memory else {
        return UNKNOWN;
    };
    let left = available.saturating_sub(taken.weights).saturating_sub(taken.workspace);
    match backend {
        Backend::Cpu => (total / 8).min(CPU_MOST).min(left.saturating_sub(total / 16) / 2),
        Backend::Metal | Backend::Cuda => left.saturating_sub(MLX_CACHE_BYTES) / 10 * 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(backend: Backend, total: u64, available: u64) -> u64 {
        let taken = Taken {
            weights: 2 * GIB,
            workspace: GIB,
        };
        budget(backend, Some(MachineMemory { total, available }), taken)
    }

    #[test]
    fn on_the_cpu_it_is_an_eighth_with_a_cap() {
        assert_eq!(of(Backend::Cpu, 16 * GIB, 15 * GIB), 2 * GIB);
        assert_eq!(of(Backend::Cpu, 256 * GIB, 200 * GIB), 4 * GIB);
    }

    #[test]
    fn what_is_taken_already_is_not_given_again() {
        assert_eq!(of(Backend::Cpu, 16 * GIB, 6 * GIB), GIB);
        assert_eq!(of(Backend::Cpu, 16 * GIB, 3 * GIB), 0);
        assert_eq!(of(Backend::Metal, 24 * GIB, 24 * GIB), 18 * GIB);
        assert_eq!(of(Backend::Cuda, 80 * GIB, GIB), 0);
    }
}
