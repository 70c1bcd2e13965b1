//! CPU kernels for what MLX's CPU backend does slowly, in float32 on threads of our own. Knows slices, not arrays.
//!
//! Every output is summed in one fixed order: the lanes of a vector along the reduced axis, then the lanes, then what does not fill one.
//! Which rows are computed together, how work is split over threads and how many threads there are changes nothing: results are
//! bitwise the same. They do depend on the instruction set ([`Instructions`]): vectors have eight lanes or sixteen, and only some sets
//! have a fused multiply-add.
//!
//! Written once over lanes; AVX-512, AVX2 with FMA, NEON or plain Rust is chosen at run time.

mod activation;
mod attention;
mod exponential;
mod half;
mod instructions;
mod lanes;
pub mod limits;
mod linear;
mod norm;
mod pool;
pub mod profile;
#[cfg(test)]
mod properties;
pub mod quantized;
mod stored;
mod tile;

pub use attention::{
    Attention, CacheShape, HeadNorm, Preparation, RotaryTable, Span, TokenPart, Writing, write_keys, write_values,
};
pub use exponential::exponentials;
pub use instructions::Instructions;
pub use linear::{Rows, Weight, gated, linear};
pub use norm::rms_norm;
pub use pool::Pool;
pub use stored::{Bfloat16, Float16, Matrix};

/// What a kernel computes with: the instructions and the threads.
#[derive(Debug)]
pub struct Machine {
    /// Instruction set.
    pub instructions: Instructions,
    /// Threads.
    pub pool: Pool,
}

impl Machine {
    /// Uses the best instructions the processor has, and `threads` threads, the caller's included.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            instructions: Instructions::detect(),
            pool: Pool::new(threads),
        }
    }
}
