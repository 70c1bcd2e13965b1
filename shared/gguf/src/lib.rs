//! Reads GGUF files and converts them to model folders in Hugging Face's layout.
//!
//! A file is mapped, its header is checked completely before anything of it is used, and the conversion streams the
//! weights. Knows no MLX: quantized weights are only repacked into the layout of MLX's affine quantization.

mod architecture;
mod convert;
mod cursor;
mod error;
mod gguf;
mod header;
mod inspect;
mod map;
mod quantized;
mod safetensors;
mod split;
mod tensor_type;
#[cfg(test)]
mod tests;
mod tokenizer;
mod value;

pub use convert::{ConvertOptions, ParseTargetError, Progress, Stage, Summary, Target, convert};
pub use error::{Error, Malformed, Place};
pub use gguf::Gguf;
pub use header::{Tensor, check_header};
pub use inspect::{Counterpart, Inspection, TensorSummary, TokenizerSummary, WeightFile, inspect};
pub use tensor_type::RequantizationError;
pub use value::{Array, ScalarArray, Value};
