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
mod quantized;

use std::sync::Arc;

use kr_kernels::Machine;
use kr_kernels::quantized::{Activations, ByteInstructions, Method};

pub(crate) use attention::{HeadNorms, NewTokens, Rotary};
pub(crate) use copy::{CopyRun, copy_runs, unwritten};
pub(crate) use linear::OwnWeight;
pub(crate) use mixture::Routing;
pub(crate) use quantized::PackedWeight;

/// Kernels for float32 on the CPU backend. Cloning shares the threads.
#[derive(Debug, Clone)]
pub(crate) struct OwnKernels {
    machine: Arc<Machine>,
    /// Of quantised products.
    method: Method,
}

/// Whether the operation that calls kernels is linked.
pub(crate) const AVAILABLE: bool = cfg!(target_os = "linux");

impl OwnKernels {
    /// Starts `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize, activations: Activations) -> Self {
        let machine = Arc::new(Machine::new(threads));
        let method = Method {
            instructions: ByteInstructions::detect(),
            activations,
        };
        Self { machine, method }
    }

    /// What the kernels compute with, to share its threads.
    pub(crate) fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// The name in the numerics fingerprint. `quantized` says whether there are quantised products.
    pub(crate) fn name(&self, quantized: bool) -> String {
        let floats = self.machine.instructions.name();
        let Method {
            instructions,
            activations,
        } = self.method;
        match quantized {
            false => format!("kr-{floats}"),
            true => format!("kr-{floats}-{}-{}", instructions.name(), activations.name()),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
