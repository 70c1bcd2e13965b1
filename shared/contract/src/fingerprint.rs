//! What a worker's arithmetic depends on beside weights and tokens.

use std::fmt;

/// How far two schedules of the same request may differ (ARCHITECTURE.md, "Exactness").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Exactness {
    /// Logits depend bitwise only on weights, prefix ids and the fingerprint.
    Invariant,
    /// Logits of two schedules differ by a documented bound; no emitted token is ever lost, repeated or changed.
    Close,
}

/// Two workers with equal fingerprints (and equal model digests) are interchangeable under their exactness class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NumericsFingerprint {
    /// `cpu`, `metal` or `cuda`, with the MLX version: `cpu-mlx-0.32.2`.
    pub backend: String,
    /// Type of activations and KV: `float32`, `bfloat16` or `float16`.
    pub dtype: String,
    /// Which kernels multiply matrices, BLAS included: `mlx+openblas`.
    pub kernel_set: String,
    /// Threads that may take part in one reduction.
    pub threads: u32,
    /// The class these numerics are held to.
    pub class: Exactness,
}

impl fmt::Display for NumericsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Exactness::Invariant => "invariant",
            Exactness::Close => "close",
        };
        write!(
            f,
            "{}/{}/{}/t{}/{class}",
            self.backend, self.dtype, self.kernel_set, self.threads
        )
    }
}
