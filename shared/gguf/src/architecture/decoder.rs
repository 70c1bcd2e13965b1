//! Reads any decoder-only model that a table describes: sizes, `config.json`, and every tensor in its shape.

use serde_json::{Map, Value as Json, json};

use super::{
    Architecture, Field, FieldKind, Heads, Model, RowOrder, Size, Tensors, Weight, field, read_fields,
    refuse_unknown_keys,
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
struct Sizes {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

impl Sizes {
    fn of(self, size: Size) -> usize {
        match size {
            Size::Hidden => self.hidden,
            Size::Intermediate => self.intermediate,
            Size::Queries => self.heads * self.head_dim,
            Size::Keys => self.kv_heads * self.head_dim,
            Size::Head => self.head_dim,
        }
    }
}

pub(super) fn read<'a>(gguf: &'a Gguf, architecture: &Architecture) -> Result<Model<'a>, Error> {
    let all_fields = || FIELDS.iter().chain(architecture.fields);
    let known: Vec<_> = all_fields().map(|field| field.key).chain(CHECKED).collect();
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
    tensors.finish()?;
    Ok(Model {
        context_length: gguf.required_size(&reader.key("context_length"))?,
        vocab_size: sizes.vocab,
        config: config(architecture, &fields, sizes, tied),
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
        Ok(Sizes {
            hidden,
            intermediate: self.field("intermediate_size"),
            layers: self.field("num_hidden_layers"),
            heads,
            kv_heads,
            head_dim: self.head_dim(hidden, heads)?,
            vocab: self.vocab_size()?,
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
        for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            let key = self.key(name);
            let length = self.gguf.size(&key)?.map_or(head_dim, |length| length as usize);
            if length != head_dim || length == 0 || length % 2 == 1 {
                let expected = format!("{head_dim}, the size of a head, an even number");
                return Err(self.gguf.inconsistent(Place::Key(key), length.to_string(), expected));
            }
        }
        Ok(head_dim)
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
        weights.push(Weight { tensor, name, rows });
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

fn config(architecture: &Architecture, fields: &Map<String, Json>, sizes: Sizes, tied: bool) -> Map<String, Json> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!([architecture.class]));
    config.insert("model_type".into(), json!(architecture.model_type));
    config.extend(fields.clone());
    let sized = [
        ("head_dim", json!(sizes.head_dim)),
        ("vocab_size", json!(sizes.vocab)),
        ("tie_word_embeddings", json!(tied)),
    ];
    let fixed = architecture.settings.iter();
    let all = sized
        .into_iter()
        .chain(fixed.map(|(name, setting)| (*name, Json::from(*setting))));
    config.extend(all.map(|(name, value)| (name.to_owned(), value)));
    config
}
