//! Why a model could not be loaded. Every message names the file, what is wrong with it and what to do.

use std::io;
use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or unreadable.
    #[error("cannot read {}: give the directory of a model with config.json and *.safetensors", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not valid JSON: download or import the model again", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A field of config.json cannot be honoured.
    #[error("{}: {field} is {value}: {problem}; {cure}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, with dots where it is nested.
        field: String,
        /// Its value as JSON, or `missing`.
        value: String,
        /// Why it cannot be honoured.
        problem: String,
        /// What to do.
        cure: String,
    },
    /// A weight file is broken as a whole.
    #[error("{}: {problem}: download or import the model again", .path.display())]
    WeightFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A weight file's header is broken.
    #[error("{}: the safetensors header is broken: download or import the model again", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A tensor is missing or not what the configuration calls for.
    #[error("{}: tensor {tensor} {problem}", .path.display())]
    Tensor {
        /// The weight file, or the directory where the tensor is in none.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Expected against found.
        problem: String,
    },
    /// The KV budget holds no useful sequence.
    #[error(
        "a KV budget of {budget} bytes holds {tokens} tokens at {per_token} bytes each: raise it to at least {needed} bytes"
    )]
    KvBudget {
        /// Bytes given.
        budget: u64,
        /// Tokens that fit.
        tokens: u64,
        /// Bytes that a token takes.
        per_token: u64,
        /// Bytes that are enough for the smallest slot.
        needed: u64,
    },
    /// The step that would tell how much memory is left for KV cannot be run.
    #[error("the widest step, of {tokens} tokens, cannot be run: lower the tokens of a step, or set a KV budget")]
    WidestStep {
        /// Its input tokens.
        tokens: u32,
        /// Why.
        #[source]
        source: kr_engine::model::ModelError,
    },
    /// A load option is outside its range.
    #[error("{option} is {value}, allowed is {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// The range, in words.
        allowed: &'static str,
    },
    /// The process computes with the wrong BLAS.
    #[error("the process is not linked as intended")]
    Blas(#[from] crate::blas::Error),
    /// MLX failed.
    #[error("MLX failed while the model was loaded")]
    Mlx(#[from] mlx_rs::error::Exception),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
