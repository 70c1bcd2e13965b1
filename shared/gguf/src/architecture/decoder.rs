//! Reads any decoder-only model that a table describes: sizes, `config.json`, and every tensor in its shape.

use serde_json::{Map, Value as Json, json};

use super::rope;
use super::{
    Architecture, Field, FieldKind, Heads, Model, Norms, Rotation, RowOrder, Setting, Size, Tensors, Weight, field,
    read_fields, refuse_unknown_keys,
};
use crate::error::{Error, Place};
use crate::gguf::Gguf;

/// What every decoder has in its metadata.
const FIELDS: [Field; 8] = [
    field("embedding_length", "hidden_size", FieldKind::Size),
    field("feed_forward_length", "intermediate_size", FieldKind::Size),
    field("block_count", "num_hidden_layers", FieldKind::Size),
    field("attention.head_count", "num_attention_heads", FieldKind::Size),
    field(
        "attention.head_count_kv",
        "num_key_value_heads",
        FieldKind::SizeOr("num_attention_heads"),
    ),
    field("attention.layer_norm_rms_epsilon", "rms_norm_eps", FieldKind::Float),
    field("rope.freq_base", "rope_theta", FieldKind::FloatOr(10_000.0)),
    field("context_length", "max_position_embeddings", FieldKind::Size),
];

/// Keys that are checked against others rather than copied.
const CHECKED: [&str; 4] = [
    "vocab_size",
    "rope.dimension_count",
    "attention.key_length",
    "attention.value_length",
];

#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Elements of a head that its position turns.
    pub(super) rotated: usize,
    vocab: usize,
    experts: usize,
    expert_intermediate: usize,
}

impl Sizes {
    fn of(self, size: Size) -> usize {
        match size {
            Size::Hidden => self.hidden,
            Size::Intermediate => self.intermediate,
            Size::Queries => self.heads * self.head_dim,
            Size::Keys => self.kv_heads * self.head_dim,
            Size::QueriesKeysValues => (self.heads + 2 * self.kv_heads) * self.head_dim,
            Size::Head => self.head_dim,
            Size::GateUp => 2 * self.intermediate,
            Size::Experts => self.experts,
            Size::ExpertIntermediate => self.expert_intermediate,
        }
    }
}

pub(super) fn read<'a>(gguf: &'a Gguf, architecture: &Architecture) -> Result<Model<'a>, Error> {
    let all_fields = || FIELDS.iter().chain(architecture.fields);
    let known = all_fields().map(|field| field.key).chain(CHECKED).chain(rope::KEYS);
    let known: Vec<_> = known.collect();
    refuse_unknown_keys(gguf, architecture.name, &known)?;
    let fields = read_fields(gguf, architecture.name, all_fields())?;
    let reader = Reader {
        gguf,
        architecture,
        fields: &fields,
    };
    let sizes = reader.sizes()?;
    let mut tensors = Tensors::of(gguf);
    let tied = !tensors.contains("output.weight");
    let weights = weights(&mut tensors, architecture, sizes, tied)?;
    let scaling = rope::scaling(&mut tensors, architecture, &fields, sizes)?;
    tensors.finish()?;
    Ok(Model {
        context_length: gguf.required_size(&reader.key("context_length"))?,
        vocab_size: sizes.vocab,
        config: config(architecture, fields, sizes, tied, scaling),
        weights,
    })
}

struct Reader<'a> {
    gguf: &'a Gguf,
    architecture: &'a Architecture,
    fields: &'a Map<String, Json>,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn field(&self, name: &str) -> usize {
        let value = self.fields.get(name).and_then(Json::as_u64);
        value.and_then(|size| usize::try_from(size).ok()).unwrap_or_default()
    }

    fn sizes(&self) -> Result<Sizes, Error> {
        let (heads, kv_heads) = (self.field("num_attention_heads"), self.field("num_key_value_heads"));
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of the {heads} attention heads");
            let key = Place::Key(self.key("attention.head_count_kv"));
            return Err(self.gguf.inconsistent(key, kv_heads.to_string(), expected));
        }
        let hidden = self.field("hidden_size");
        let head_dim = self.head_dim(hidden, heads)?;
        Ok(Sizes {
            hidden,
            intermediate: self.field("intermediate_size"),
            layers: self.field("num_hidden_layers"),
            heads,
            kv_heads,
            head_dim,
            rotated: self.rotated(head_dim)?,
            vocab: self.vocab_size()?,
            experts: self.field("num_experts"),
            expert_intermediate: self.field("moe_intermediate_size"),
        })
    }

    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, Error> {
        let head_dim = match self.gguf.size(&self.key("attention.key_length"))? {
            Some(length) => length as usize,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let expected = format!("a divisor of the embedding length, {hidden}");
                let key = Place::Key(self.key("attention.head_count"));
                return Err(self.gguf.inconsistent(key, heads.to_string(), expected));
            }
        };
        for name in ["attention.key_length", "attention.value_length"] {
            let key = self.key(name);
            let length = self.gguf.size(&key)?.map_or(head_dim, |length| length as usize);
            if length != head_dim || length == 0 || length % 2 == 1 {
                let expected = format!("{head_dim}, the size of a head, an even number");
                return Err(self.gguf.inconsistent(Place::Key(key), length.to_string(), expected));
            }
        }
        Ok(head_dim)
    }

    fn rotated(&self, head_dim: usize) -> Result<usize, Error> {
        let key = self.key("rope.dimension_count");
        let count = self.gguf.size(&key)?.map_or(head_dim, |count| count as usize);
        let fits = match self.architecture.rotation {
            Rotation::Whole => count == head_dim,
            Rotation::Part => count <= head_dim && count > 0 && count.is_multiple_of(2),
        };
        if !fits {
            let expected = match self.architecture.rotation {
                Rotation::Whole => format!("{head_dim}, the size of a head, an even number"),
                Rotation::Part => format!("an even number of up to {head_dim}, the size of a head"),
            };
            return Err(self.gguf.inconsistent(Place::Key(key), count.to_string(), expected));
        }
        Ok(count)
    }

    /// The embedding's rows; the metadata may leave the size out, but must not contradict it.
    fn vocab_size(&self) -> Result<usize, Error> {
        let name = "token_embd.weight";
        let embedding = self.gguf.tensors().iter().find(|tensor| tensor.name() == name);
        let rows = embedding
            .ok_or_else(|| self.gguf.missing(Place::Tensor(name.into())))?
            .rows();
        let key = self.key("vocab_size");
        match self.gguf.size(&key)? {
            Some(size) if size as usize != rows => {
                let expected = format!("{rows}, the rows of tensor {name:?}");
                Err(self.gguf.inconsistent(Place::Key(key), size.to_string(), expected))
            }
            _ => Ok(rows),
        }
    }
}

fn weights<'a>(
    tensors: &mut Tensors<'a>,
    architecture: &Architecture,
    sizes: Sizes,
    tied: bool,
) -> Result<Vec<Weight<'a>>, Error> {
    let Sizes { hidden, vocab, .. } = sizes;
    let mut weights = Vec::new();
    let mut take = |source: &str, name: &str, shape: &[usize], rows: RowOrder| -> Result<(), Error> {
        let (tensor, name) = (tensors.take(source, shape)?, name.to_owned());
        let shifted = architecture.norms == Norms::PlusOne && name.ends_with("norm.weight");
        weights.push(Weight {
            tensor,
            name,
            rows,
            excess: f32::from(u8::from(shifted)),
        });
        Ok(())
    };
    let plain = RowOrder::AsWritten;
    take(
        "token_embd.weight",
        "model.embed_tokens.weight",
        &[vocab, hidden],
        plain,
    )?;
    for layer in 0..sizes.layers {
        for row in architecture.layer {
            let source = format!("blk.{layer}.{}", row.source);
            let name = format!("model.layers.{layer}.{}", row.name);
            let shape: Vec<_> = row.shape.iter().map(|size| sizes.of(*size)).collect();
            let order = match row.heads {
                Heads::AsWritten => plain,
                Heads::Interleaved => RowOrder::InterleavedHalves {
                    head_dim: sizes.head_dim,
                },
            };
            take(&source, &name, &shape, order)?;
        }
    }
    take("output_norm.weight", "model.norm.weight", &[hidden], plain)?;
    if !tied {
        take("output.weight", "lm_head.weight", &[vocab, hidden], plain)?;
    }
    Ok(weights)
}

fn config(
    architecture: &Architecture,
    fields: Map<String, Json>,
    sizes: Sizes,
    tied: bool,
    scaling: Option<Json>,
) -> Map<String, Json> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!([architecture.class]));
    config.insert("model_type".into(), json!(architecture.model_type));
    config.extend(fields);
    let mut settings = vec![
        ("head_dim", json!(sizes.head_dim)),
        ("vocab_size", json!(sizes.vocab)),
        ("tie_word_embeddings", json!(tied)),
    ];
    let fixed = architecture.settings.iter();
    settings.extend(fixed.map(|(name, setting)| (*name, setting.value(sizes))));
    settings.extend(scaling.map(|scaling| ("rope_scaling", scaling)));
    config.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
    config
}

impl Setting {
    fn value(self, sizes: Sizes) -> Json {
        match self {
            Self::Text(text) => text.into(),
            Self::Flag(flag) => flag.into(),
            Self::Number(number) => number.into(),
            Self::Null => Json::Null,
            Self::RotatedPart => json!(share(sizes.rotated, sizes.head_dim)),
            Self::QueryScale { wide_layers } => match sizes.layers == wide_layers {
                true => json!(share(sizes.hidden, sizes.heads)),
                false => json!(sizes.head_dim),
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^53")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
