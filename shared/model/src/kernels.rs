//! Our own CPU kernels on MLX's arrays. They run at once, on the calling thread and the kernels' own: a graph of some hundred operations
//! a step, handed to another thread one by one, would cost more than most of them take. What an input still waits for in MLX's
//! graph is computed first.

mod activation;
mod attention;
mod copy;
mod gather;
mod linear;
mod memory;
mod mixture;
mod norm;

use std::sync::Arc;

use kr_kernels::Machine;

pub(crate) use attention::{HeadNorms, NewTokens, Rotary};
pub(crate) use copy::{CopyRun, copy_runs, unwritten};
pub(crate) use linear::OwnWeight;
pub(crate) use mixture::Routing;

/// Kernels for float32 on the CPU backend. Cloning shares the threads.
#[derive(Debug, Clone)]
pub(crate) struct OwnKernels {
    machine: Arc<Machine>,
}

/// Whether the operation that calls kernels is linked.
pub(crate) const AVAILABLE: bool = cfg!(target_os = "linux");

impl OwnKernels {
    /// Starts `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> Self {
        let machine = Arc::new(Machine::new(threads));
        Self { machine }
    }

    /// What the kernels compute with, to share its threads.
    pub(crate) fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// The name in the numerics fingerprint.
    pub(crate) fn name(&self) -> String {
        format!("kr-{}", self.machine.instructions.name())
    }
}
