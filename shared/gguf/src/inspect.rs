//! What a GGUF file or a model folder holds, for people: read without loading a model, whether it can be imported or not.

mod file;
mod folder;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::tensor_type::RequantizationError;

/// A GGUF file or a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// `GGUF` or `safetensors`.
    pub format: &'static str,
    /// Files with weights.
    pub files: Vec<WeightFile>,
    /// As the file or `config.json` names it.
    pub architecture: Option<String>,
    /// Longest context the model was trained for, in tokens.
    pub context_tokens: Option<u64>,
    /// What is known of the tokenizer.
    pub tokenizer: Option<TokenizerSummary>,
    /// The `quantization` of `config.json`.
    pub quantization: Option<serde_json::Value>,
    /// Where the model comes from, by keys of the file or of its import record.
    pub provenance: BTreeMap<String, String>,
    /// Why a GGUF file cannot be imported.
    pub problem: Option<String>,
    /// In the order of the files.
    pub tensors: Vec<TensorSummary>,
}

/// A file with weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightFile {
    /// Without its folder.
    pub name: String,
    /// Size of the whole file.
    pub bytes: u64,
}

/// A tokenizer in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizerSummary {
    /// Kind, and for GGUF how text is split.
    pub kind: String,
    /// Size of the vocabulary.
    pub tokens: usize,
    /// Whether there is a chat template.
    pub chat_template: bool,
}

/// One weight; of a quantized one levels, scales and biases together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Name in the file.
    pub name: String,
    /// Type in the file, for quantized weights of a folder bits and groups.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Shape of the values, rows first.
    pub shape: Vec<u64>,
    /// Bytes in the file.
    pub bytes: u64,
    /// In a GGUF file what an import makes of it; in an imported folder what it was made from.
    pub counterpart: Option<Counterpart>,
}

/// The other side of an import.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counterpart {
    /// Name on the other side.
    pub name: String,
    /// Type on the other side.
    #[serde(rename = "type")]
    pub type_name: String,
    /// How far the folder's values are off; `None` where they are exactly the GGUF file's.
    pub error: Option<RequantizationError>,
}

/// Looks into a GGUF file, given the first part of a split one, or into a model folder. Weights are read only where an
/// import would requantize them, to say what that loses.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`], [`Error::Json`] or [`Error::Part`], naming the file. A GGUF file that is well-formed
/// but cannot be imported is no error: see [`Inspection::problem`].
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    if path.is_dir() {
        folder::inspect(path)
    } else {
        file::inspect(path)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
