//! What a model architecture asks of a GGUF file and how its parts are called in a Hugging Face folder. To add one:
//! write its table, in a file of its own, and a row in [`ARCHITECTURES`].

mod decoder;
mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod rope;

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use crate::error::{Error, Place};
use crate::gguf::Gguf;
use crate::header::Tensor;
use crate::value::Value;

/// A model found in a GGUF file, with every tensor present and of the right shape.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    /// `config.json`, without the tokenizer's ids and the quantization.
    pub(crate) config: Map<String, Json>,
    pub(crate) context_length: u32,
    /// Rows of the embedding.
    pub(crate) vocab_size: usize,
    /// In the order they are to be written.
    pub(crate) weights: Vec<Weight<'a>>,
}

/// A tensor and what becomes of it.
#[derive(Debug)]
pub(crate) struct Weight<'a> {
    pub(crate) tensor: &'a Tensor,
    /// Hugging Face name, with `.weight` at the end.
    pub(crate) name: String,
    pub(crate) rows: RowOrder,
    /// What the file's values have too much.
    pub(crate) excess: f32,
}

/// How the rows lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    AsWritten,
    /// Query or key heads whose two rotary halves are interleaved: 0, d/2, 1, d/2 + 1, …
    InterleavedHalves {
        head_dim: usize,
    },
}

impl RowOrder {
    /// The file's row for a row of the output.
    pub(crate) fn source(self, row: usize) -> usize {
        match self {
            Self::AsWritten => row,
            Self::InterleavedHalves { head_dim } => {
                let within = row % head_dim;
                let half = head_dim / 2;
                row - within + 2 * (within % half) + within / half
            }
        }
    }
}

/// A decoder-only model as a table: what its metadata and tensors are called, here and there.
#[derive(Debug)]
struct Architecture {
    /// Value of `general.architecture` and prefix of the metadata keys.
    name: &'static str,
    /// Hugging Face's name for the class, in `architectures`.
    class: &'static str,
    model_type: &'static str,
    /// Metadata that is copied to `config.json`, beside what every decoder has.
    fields: &'static [Field],
    /// What `config.json` says beside: settings that the architecture fixes.
    settings: &'static [(&'static str, Setting)],
    /// Tensors of each layer.
    layer: &'static [Row],
    norms: Norms,
    rotation: Rotation,
}

/// How norms are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norms {
    AsTrained,
    /// With the one added that the model adds to them.
    PlusOne,
}

/// How much of a head its position turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    Whole,
    /// As many elements as `rope.dimension_count` says, at most all.
    Part,
}

/// A fixed value of `config.json`.
#[derive(Debug, Clone, Copy)]
enum Setting {
    Text(&'static str),
    Flag(bool),
    Number(f64),
    Null,
    /// The part of each head that its position turns.
    RotatedPart,
    /// What queries are divided by the root of: the size of a head, or in models of `wide_layers` layers the width for each head.
    QueryScale {
        wide_layers: usize,
    },
}

/// A tensor of a layer: its names without the layer's prefix and with their ending, and its shape, rows first.
#[derive(Debug)]
struct Row {
    source: &'static str,
    name: &'static str,
    shape: &'static [Size],
    heads: Heads,
}

/// A length, by what it counts.
#[derive(Debug, Clone, Copy)]
enum Size {
    Hidden,
    Intermediate,
    /// Attention heads times their size.
    Queries,
    /// Key and value heads times their size.
    Keys,
    /// Queries, keys and values side by side.
    QueriesKeysValues,
    Head,
    /// Gate and up side by side.
    GateUp,
    Experts,
    /// Of one expert.
    ExpertIntermediate,
}

/// Whether the writer interleaved the rotary halves of each head's rows.
#[derive(Debug, Clone, Copy)]
enum Heads {
    AsWritten,
    Interleaved,
}

const fn row(source: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row {
        source,
        name,
        shape,
        heads: Heads::AsWritten,
    }
}

const fn interleaved(source: &'static str, name: &'static str, shape: &'static [Size]) -> Row {
    Row {
        source,
        name,
        shape,
        heads: Heads::Interleaved,
    }
}

const ARCHITECTURES: [&Architecture; 6] = [
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &qwen3moe::QWEN3MOE,
];

/// Finds the model in a file.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Inconsistent`] or [`Error::Missing`], naming the tensor or key.
pub(crate) fn read(gguf: &Gguf) -> Result<Model<'_>, Error> {
    refuse_parts_of_models(gguf)?;
    let key = "general.architecture";
    let name = gguf.required_text(key)?;
    let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == name) else {
        let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
        return Err(gguf.unsupported(Place::Key(key.into()), format!("{name:?}"), known.join(", ")));
    };
    decoder::read(gguf, architecture)
}

fn refuse_parts_of_models(gguf: &Gguf) -> Result<(), Error> {
    let key = "general.type";
    if let Some(kind) = gguf.text(key)?.filter(|kind| *kind != "model") {
        return Err(gguf.unsupported(Place::Key(key.into()), format!("{kind:?}"), "model"));
    }
    Ok(())
}

/// One field of `config.json` and the metadata key it comes from, without the architecture's prefix.
#[derive(Debug)]
struct Field {
    key: &'static str,
    field: &'static str,
    kind: FieldKind,
}

const fn field(key: &'static str, field: &'static str, kind: FieldKind) -> Field {
    Field { key, field, kind }
}

#[derive(Debug)]
enum FieldKind {
    /// A whole number above 0.
    Size,
    /// The same, or another field's value.
    SizeOr(&'static str),
    SizeOrNumber(u32),
    /// A whole number above 0; null where it is 0 or absent.
    SizeOrNull,
    /// A number above 0.
    Float,
    FloatOr(f64),
}

/// Reads the fields of a table in order.
fn read_fields<'a>(
    gguf: &Gguf,
    prefix: &str,
    fields: impl Iterator<Item = &'a Field>,
) -> Result<Map<String, Json>, Error> {
    let mut config = Map::new();
    for Field { key, field, kind } in fields {
        let key = format!("{prefix}.{key}");
        let value = match kind {
            FieldKind::Size => Json::from(gguf.required_size(&key)?),
            FieldKind::SizeOr(other) => match gguf.size(&key)? {
                Some(value) => Json::from(value),
                None => config.get(*other).cloned().unwrap_or_default(),
            },
            FieldKind::SizeOrNumber(default) => Json::from(gguf.size(&key)?.unwrap_or(*default)),
            FieldKind::SizeOrNull => gguf.size(&key)?.filter(|size| *size > 0).into(),
            FieldKind::Float => Json::from(gguf.required_float(&key)?),
            FieldKind::FloatOr(default) => Json::from(gguf.float(&key)?.unwrap_or(*default)),
        };
        let required = !matches!(kind, FieldKind::SizeOrNull);
        if required && value.as_f64().is_none_or(|value| value <= 0.0) {
            return Err(gguf.inconsistent(Place::Key(key), value.to_string(), "a number above 0"));
        }
        config.insert((*field).to_owned(), value);
    }
    Ok(config)
}

/// Refuses every key of the architecture that is neither used nor neutral: each may change what the model computes.
fn refuse_unknown_keys(gguf: &Gguf, prefix: &str, known: &[&str]) -> Result<(), Error> {
    for (key, value) in gguf.metadata() {
        let Some(name) = key.strip_prefix(prefix).and_then(|key| key.strip_prefix('.')) else {
            continue;
        };
        if !known.contains(&name) && !is_neutral(value) {
            let found = match value {
                Value::Unsigned(value) => value.to_string(),
                Value::String(value) => format!("{value:?}"),
                value => value.type_name().to_owned(),
            };
            return Err(gguf.unsupported(Place::Key(key.clone()), found, "models without this setting"));
        }
    }
    Ok(())
}

fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Unsigned(value) => *value == 0,
        Value::Bool(value) => !value,
        Value::String(value) => matches!(value.as_str(), "" | "none"),
        _ => false,
    }
}

/// Hands out tensors by name, each once, and knows what is left.
struct Tensors<'a> {
    gguf: &'a Gguf,
    left: HashMap<&'a str, &'a Tensor>,
}

impl<'a> Tensors<'a> {
    fn of(gguf: &'a Gguf) -> Self {
        let left = gguf.tensors().iter().map(|tensor| (tensor.name(), tensor)).collect();
        Self { gguf, left }
    }

    fn contains(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Takes a tensor that must exist with this shape, rows first.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<&'a Tensor, Error> {
        let place = || Place::Tensor(name.to_owned());
        let tensor = self.left.remove(name).ok_or_else(|| self.gguf.missing(place()))?;
        if tensor.shape() != shape {
            let found = format!(
                "shape {:?} (described at byte {})",
                tensor.shape(),
                tensor.described_at()
            );
            return Err(self
                .gguf
                .inconsistent(place(), found, format!("{shape:?}, as the metadata says")));
        }
        Ok(tensor)
    }

    /// Refuses tensors that nobody took: a model that has them computes something else.
    fn finish(self) -> Result<(), Error> {
        match self.left.iter().min_by_key(|(name, _)| **name) {
            None => Ok(()),
            Some((name, tensor)) => Err(self.gguf.unsupported(
                Place::Tensor((*name).to_owned()),
                format!(
                    "a name (at byte {}) that is no part of this architecture as implemented",
                    tensor.described_at()
                ),
                "models without this tensor",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn interleaved_halves_are_put_side_by_side() {
        let order = RowOrder::InterleavedHalves { head_dim: 6 };
        let rows: Vec<_> = (0..12).map(|row| order.source(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
