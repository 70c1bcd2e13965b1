//! Decides which arrays are written for each weight, before any of them is.

use crate::architecture::{Model, Weight};
use crate::convert::Target;
use crate::safetensors::{Dtype, Entry, Layout};
use crate::tensor_type::{Affine, Codec, Dense};

/// The arrays of a `model.safetensors` and where they lie in it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) arrays: Vec<Array>,
    pub(super) layout: Layout,
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
    Float32,
    /// The source's bytes.
    Float16,
    Levels(Affine),
    Scales(Affine),
    Biases(Affine),
}

/// How a whole weight is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Storage {
    Float32,
    Float16,
    Affine(Affine),
}

impl Plan {
    pub(super) fn of(model: &Model<'_>, target: Target) -> Self {
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
        Self {
            target,
            arrays,
            layout: Layout::of(&entries, format),
        }
    }

    pub(super) fn storage(&self, weight: &Weight<'_>) -> Storage {
        storage(weight, self.target)
    }

    pub(super) fn exact_weights(&self, model: &Model<'_>) -> usize {
        model.weights.iter().filter(|weight| is_exact(weight)).count()
    }
}

/// Whether the written values are the source's own.
pub(super) fn is_exact(weight: &Weight<'_>) -> bool {
    match weight.tensor.tensor_type().codec {
        Some(Codec::Affine(affine)) => affine.exact,
        Some(Codec::Dense(_)) => true,
        None => false,
    }
}

fn storage(weight: &Weight<'_>, target: Target) -> Storage {
    let is_matrix = weight.tensor.rows() > 1;
    match (target, weight.tensor.tensor_type().codec) {
        (Target::Quantized, Some(Codec::Affine(affine))) if is_matrix => Storage::Affine(affine),
        (Target::Quantized, Some(Codec::Dense(Dense::Float16))) => Storage::Float16,
        _ => Storage::Float32,
    }
}

fn contents(name: &str, storage: Storage) -> Vec<(String, Content)> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    match storage {
        Storage::Float32 => vec![(name.to_owned(), Content::Float32)],
        Storage::Float16 => vec![(name.to_owned(), Content::Float16)],
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
        Content::Float32 => (Dtype::Float32, columns),
        Content::Float16 => (Dtype::Float16, columns),
        Content::Levels(affine) => (Dtype::Uint32, columns * affine.bits / 32),
        Content::Scales(affine) | Content::Biases(affine) => (Dtype::Float32, columns / affine.group_len),
    };
    let mut shape = weight.tensor.shape();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    Entry { name, dtype, shape }
}
