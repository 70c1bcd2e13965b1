//! How a model is to be loaded.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kr_kernels::quantized::Activations;
use mlx_rs::Dtype;

use crate::error::{Error, Result};

/// Type of activations, KV and dense weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComputeDtype {
    /// 32 bits: the fast one on the CPU backend.
    Float32,
    /// 16 bits, 8 of them exponent.
    Bfloat16,
    /// 16 bits, 5 of them exponent.
    Float16,
}

impl ComputeDtype {
    /// Returns the name used in configuration and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    pub(crate) fn to_mlx(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
            Self::Float16 => Dtype::Float16,
        }
    }

    pub(crate) fn from_mlx(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::Float32 => Some(Self::Float32),
            Dtype::Bfloat16 => Some(Self::Bfloat16),
            Dtype::Float16 => Some(Self::Float16),
            _ => None,
        }
    }
}

impl fmt::Display for ComputeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is none of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no type to compute with: use float32, bfloat16 or float16")]
pub struct UnknownDtype(String);

impl FromStr for ComputeDtype {
    type Err = UnknownDtype;

    fn from_str(name: &str) -> std::result::Result<Self, UnknownDtype> {
        match name {
            "float32" => Ok(Self::Float32),
            "bfloat16" => Ok(Self::Bfloat16),
            "float16" => Ok(Self::Float16),
            _ => Err(UnknownDtype(name.to_owned())),
        }
    }
}

/// Which implementation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Our own kernels where there are any for the backend and type, MLX's operations elsewhere.
    #[default]
    Auto,
    /// MLX's operations only: the reference.
    MlxOnly,
}

/// How a model is to be loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `None` takes the weights as they are in the file; another type converts them, which costs a copy.
    pub dtype: Option<ComputeDtype>,
    /// Sequences that may hold a slot at once.
    pub max_sequences: u32,
    /// Bytes for KV: slots and block store together. `None` is measured, by running the widest step once after loading. On the CPU that
    /// is an eighth of the memory (the control group's where it has a limit), at most 4 GiB, on a GPU nine tenths of what weights,
    /// workspace and MLX's cache leave; less where less is available.
    pub kv_budget_bytes: Option<u64>,
    /// Input tokens of the widest step there will be, for that measurement.
    pub step_tokens: u32,
    /// A folder to remember measurements in and to keep prepared weights in, so that the next start need not repeat them and workers
    /// share them; `None` remembers none.
    pub cache_dir: Option<PathBuf>,
    /// Longest sequence; `None` is the model's own limit. Shortened where the budget does not hold one slot of that length.
    pub max_context_tokens: Option<u32>,
    /// Tokens in one block of the block store.
    pub block_tokens: u32,
    /// Blocks of the block store, taken from the budget; `None` is as many as a quarter of it holds, 0 keeps none.
    pub store_blocks: Option<u32>,
    /// Steps in flight beside the one that is waited for: 0 or 1. `None` is 0 on the CPU and 1 on a GPU.
    pub pipeline_depth: Option<u32>,
    /// Which implementation computes.
    pub kernels: Kernels,
    /// What our own kernels make of activations that meet quantised weights.
    pub activations: Activations,
    /// Threads of our own kernels, the engine's included; `None` is one for each processor. Part of the numerics fingerprint.
    pub threads: Option<u32>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            max_sequences: 32,
            kv_budget_bytes: None,
            step_tokens: 512,
            cache_dir: None,
            max_context_tokens: None,
            block_tokens: 32,
            store_blocks: None,
            pipeline_depth: None,
            kernels: Kernels::Auto,
            activations: Activations::Int8,
            threads: None,
        }
    }
}

impl LoadOptions {
    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::Option`] names the first one outside.
    pub fn check(&self) -> Result<()> {
        let within = |option, value: u32, allowed: std::ops::RangeInclusive<u32>, words| {
            if allowed.contains(&value) {
                return Ok(());
            }
            Err(Error::Option {
                option,
                value: value.to_string(),
                allowed: words,
            })
        };
        within("max_sequences", self.max_sequences, 1..=4096, "1 to 4096")?;
        within("block_tokens", self.block_tokens, 1..=1024, "1 to 1024")?;
        within(
            "store_blocks",
            self.store_blocks.unwrap_or(0),
            0..=1 << 20,
            "0 to 1048576",
        )?;
        within("step_tokens", self.step_tokens, 1..=1 << 20, "1 to 1048576")?;
        within("threads", self.threads.unwrap_or(1), 1..=1024, "1 to 1024")?;
        within("pipeline_depth", self.pipeline_depth.unwrap_or(0), 0..=1, "0 or 1")?;
        within(
            "max_context_tokens",
            self.max_context_tokens.unwrap_or(1),
            1..=1 << 24,
            "1 to 16777216",
        )
    }
}
