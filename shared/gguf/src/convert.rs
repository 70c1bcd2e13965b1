//! From a GGUF file to a model folder in Hugging Face's layout.
//!
//! | file | content |
//! |---|---|
//! | `model.safetensors` | weights, every tensor 64-byte aligned |
//! | `config.json`, `generation_config.json` | architecture, sizes, end tokens, quantization |
//! | `tokenizer.json`, `tokenizer_config.json` | tokenizer and chat template |
//! | `import.json` | where every tensor came from and whether it is exact; written for people and for `overwrite` |
//!
//! The folder appears whole or not at all.

mod documents;
pub(crate) mod plan;
mod staging;
mod weights;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::architecture;
use crate::error::{Error, Place};
use crate::gguf::Gguf;
use crate::tensor_type::TensorType;
use crate::tokenizer::{self, ModelSizes};
use documents::Documents;
use plan::Plan;
use staging::Staging;

/// Hexadecimal SHA-256 of each of the source's files.
#[derive(Debug)]
struct Checksums {
    parts: Vec<String>,
    /// The only part's, or that of all parts' checksums joined.
    source: String,
}

const HASH_CHUNK_BYTES: usize = 4 << 20;

/// What the weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Everything as float32, with the very values that the quantized weights stand for.
    Float32,
    /// Quantized weights as MLX's affine quantization with float32 scales and biases; plain floats as they are.
    Quantized,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Quantized => "quantized",
        })
    }
}

/// The text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a conversion target is float32 or quantized")]
pub struct ParseTargetError;

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "float32" => Ok(Self::Float32),
            "quantized" => Ok(Self::Quantized),
            _ => Err(ParseTargetError),
        }
    }
}

/// How to convert.
pub struct ConvertOptions<'a> {
    /// What the weights become.
    pub target: Target,
    /// Replace a folder made by an earlier import.
    pub overwrite: bool,
    /// Called every few megabytes, from the calling thread.
    pub progress: &'a mut dyn FnMut(Progress),
}

impl fmt::Debug for ConvertOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertOptions")
            .field("target", &self.target)
            .field("overwrite", &self.overwrite)
            .finish_non_exhaustive()
    }
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes of this stage that are done.
    pub done_bytes: u64,
    /// All bytes of this stage.
    pub total_bytes: u64,
}

/// A part of a conversion, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Computing the source's checksum.
    Hashing,
    /// Writing the weights.
    Tensors,
    /// Moving the finished folder to its place.
    Publishing,
}

/// What was converted.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Architecture as the file names it.
    pub architecture: String,
    /// The model's name, if the file has one.
    pub name: Option<String>,
    /// Tensors of the source.
    pub tensors: usize,
    /// Those whose values are exactly the source's.
    pub exact_tensors: usize,
    /// The largest difference of any value from the source's; 0 when all are exact.
    pub max_error: f64,
    /// Size of `model.safetensors`.
    pub bytes: u64,
    /// Checksum of the GGUF file, 64 hexadecimal digits; of a split one, the checksum of its parts' checksums joined.
    pub source_sha256: String,
}

/// Converts a GGUF file to a model folder. The result depends on the file's content and the target only.
///
/// # Errors
/// Any [`Error`]; whatever the error, `out_dir` is as it was before.
pub fn convert(source: &Path, out_dir: &Path, options: ConvertOptions<'_>) -> Result<Summary, Error> {
    let gguf = Gguf::open(source)?;
    let model = architecture::read(&gguf)?;
    refuse_types_without_codec(&gguf)?;
    let sizes = ModelSizes {
        vocab_size: model.vocab_size,
        context_length: model.context_length,
    };
    let tokenizer = tokenizer::read(&gguf, sizes)?;
    let plan = Plan::of(&gguf, &model, options.target);
    let staging = Staging::beside(out_dir, options.overwrite)?;

    let checksums = checksums(&gguf, options.progress);
    staging.write_mapped("model.safetensors", |out| {
        weights::write(&gguf, &model, &plan, out, options.progress)
    })?;
    let documents = Documents {
        gguf: &gguf,
        model: &model,
        tokenizer: &tokenizer,
        plan: &plan,
        checksums: &checksums,
    };
    for (name, document) in documents.all()? {
        staging.write_json(name, &document)?;
    }

    let bytes = plan.layout.bytes();
    let publishing = |done_bytes| Progress {
        stage: Stage::Publishing,
        done_bytes,
        total_bytes: bytes,
    };
    (options.progress)(publishing(0));
    staging.publish()?;
    (options.progress)(publishing(bytes));
    let errors: Vec<_> = plan.weights(&model).map(|(_, _, error)| error).collect();
    Ok(Summary {
        architecture: gguf.required_text("general.architecture")?.to_owned(),
        name: gguf.text("general.name")?.map(str::to_owned),
        tensors: model.weights.len(),
        exact_tensors: errors.iter().filter(|error| error.is_none()).count(),
        max_error: errors.iter().flatten().fold(0.0, |max, error| error.max_error.max(max)),
        bytes,
        source_sha256: checksums.source,
    })
}

pub(crate) fn refuse_types_without_codec(gguf: &Gguf) -> Result<(), Error> {
    match gguf
        .tensors()
        .iter()
        .find(|tensor| tensor.tensor_type().codec.is_none())
    {
        None => Ok(()),
        Some(tensor) => Err(gguf.unsupported(
            Place::Tensor(tensor.name().to_owned()),
            format!(
                "type {} (described at byte {})",
                tensor.type_name(),
                tensor.described_at()
            ),
            TensorType::supported_names(),
        )),
    }
}

fn checksums(gguf: &Gguf, progress: &mut dyn FnMut(Progress)) -> Checksums {
    let total_bytes = gguf.parts().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut done_bytes = 0;
    let mut parts = Vec::new();
    for (_, bytes) in gguf.parts() {
        let mut hasher = Sha256::new();
        for chunk in bytes.chunks(HASH_CHUNK_BYTES) {
            hasher.update(chunk);
            done_bytes += chunk.len() as u64;
            progress(Progress {
                stage: Stage::Hashing,
                done_bytes,
                total_bytes,
            });
        }
        parts.push(hexadecimal(hasher));
    }
    let source = match parts.as_slice() {
        [only] => only.clone(),
        several => hexadecimal(Sha256::new().chain_update(several.concat())),
    };
    Checksums { parts, source }
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
