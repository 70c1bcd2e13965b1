//! Decides which arrays are written for each weight, before any of them is.

use crate::architecture::{Model, Weight};
use crate::convert::Target;
use crate::gguf::Gguf;
use crate::safetensors::{Dtype, Entry, Layout};
use crate::tensor_type::{Affine, Codec, Dense, RequantizationError};

/// The arrays of a `model.safetensors` and where they lie in it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) target: Target,
    pub(super) arrays: Vec<Array>,
    pub(super) layout: Layout,
    /// One for each weight.
    errors: Vec<Option<RequantizationError>>,
}

/// An array to be written, made from one weight.
#[derive(Debug)]
pub(super) struct Array {
    /// Index of the weight in the model.
    pub(super) weight: usize,
    pub(super) content: Content,
    /// Bytes of a row in the file.
    pub(super) row_bytes: usize,
}

/// What of the weight an array holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// All values, as float32.
    Values,
    /// The source's bytes, which are floats of this type.
    Copied(Dense),
    Levels(Affine),
    Scales(Affine),
    Biases(Affine),
}

/// How a whole weight is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage {
    Dense(Dense),
    Affine(Affine),
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(dense) => f.write_str(dense.name()),
            Self::Affine(affine) => write!(f, "affine, {} bits, groups of {}", affine.bits, affine.group_len),
        }
    }
}

impl Plan {
    /// Reads the weights that will be requantized, to say how far off they will be.
    pub(crate) fn of(gguf: &Gguf, model: &Model<'_>, target: Target) -> Self {
        let mut entries = Vec::new();
        let mut arrays = Vec::new();
        for (index, weight) in model.weights.iter().enumerate() {
            for (name, content) in contents(&weight.name, storage(weight, target)) {
                let entry = entry(weight, name, content);
                arrays.push(Array {
                    weight: index,
                    content,
                    row_bytes: entry.bytes() / weight.tensor.rows(),
                });
                entries.push(entry);
            }
        }
        let format = match target {
            Target::Float32 => "pt",
            Target::Quantized => "mlx",
        };
        let errors = model.weights.iter().map(|weight| error(gguf, weight, target)).collect();
        Self {
            target,
            arrays,
            layout: Layout::of(&entries, format),
            errors,
        }
    }

    /// The model's weights, how each is stored, and how far its values are off where they are not the source's own.
    pub(crate) fn weights<'m, 'g>(
        &self,
        model: &'m Model<'g>,
    ) -> impl Iterator<Item = (&'m Weight<'g>, Storage, Option<RequantizationError>)> {
        let weights = model.weights.iter().zip(&self.errors);
        weights.map(|(weight, error)| (weight, storage(weight, self.target), *error))
    }
}

fn storage(weight: &Weight<'_>, target: Target) -> Storage {
    let is_matrix = weight.tensor.rows() > 1;
    match (target, weight.tensor.tensor_type().codec) {
        _ if weight.excess != 0.0 => Storage::Dense(Dense::Float32),
        (Target::Quantized, Some(Codec::Affine(affine))) if is_matrix => Storage::Affine(affine),
        (Target::Quantized, Some(Codec::Requantized(requantized))) if is_matrix => Storage::Affine(requantized.affine),
        (Target::Quantized, Some(Codec::Dense(dense))) => Storage::Dense(dense),
        _ => Storage::Dense(Dense::Float32),
    }
}

/// `None` where nothing is lost.
fn error(gguf: &Gguf, weight: &Weight<'_>, target: Target) -> Option<RequantizationError> {
    let tensor_type = weight.tensor.tensor_type();
    match (storage(weight, target), tensor_type.codec) {
        (Storage::Affine(_), Some(Codec::Requantized(requantized))) => {
            let error = RequantizationError::measure(tensor_type, requantized, gguf.data(weight.tensor));
            (!error.is_zero()).then_some(error)
        }
        _ => None,
    }
}

fn contents(name: &str, storage: Storage) -> Vec<(String, Content)> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    match storage {
        Storage::Dense(Dense::Float32) => vec![(name.to_owned(), Content::Values)],
        Storage::Dense(dense) => vec![(name.to_owned(), Content::Copied(dense))],
        Storage::Affine(affine) => vec![
            (name.to_owned(), Content::Levels(affine)),
            (format!("{module}.scales"), Content::Scales(affine)),
            (format!("{module}.biases"), Content::Biases(affine)),
        ],
    }
}

fn entry(weight: &Weight<'_>, name: String, content: Content) -> Entry {
    let columns = weight.tensor.columns();
    let (dtype, columns) = match content {
        Content::Values | Content::Copied(Dense::Float32) => (Dtype::Float32, columns),
        Content::Copied(Dense::Float16) => (Dtype::Float16, columns),
        Content::Copied(Dense::Bfloat16) => (Dtype::Bfloat16, columns),
        Content::Levels(affine) => (Dtype::Uint32, columns * affine.bits / 32),
        Content::Scales(affine) | Content::Biases(affine) => (Dtype::Float32, columns / affine.group_len),
    };
    let mut shape = weight.tensor.shape();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    Entry { name, dtype, shape }
}
