//! Llama and the models that share its architecture name in GGUF: grouped-query attention, rotary positions in two
//! halves, SwiGLU, RMS norms. GGUF's writers interleave the rotary halves of the query and key rows; they are put back.

use serde_json::{Map, Value as Json, json};

use super::{Field, FieldKind, Model, RowOrder, Tensors, Weight, read_fields, refuse_unknown_keys};
use crate::error::{Error, Place};
use crate::gguf::Gguf;

const PREFIX: &str = "llama";

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

const fn field(key: &'static str, field: &'static str, kind: FieldKind) -> Field {
    Field { key, field, kind }
}

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

pub(super) fn read(gguf: &Gguf) -> Result<Model<'_>, Error> {
    let known: Vec<_> = FIELDS.iter().map(|field| field.key).chain(CHECKED).collect();
    refuse_unknown_keys(gguf, PREFIX, &known)?;
    let fields = read_fields(gguf, PREFIX, &FIELDS)?;
    let sizes = sizes(gguf, &fields)?;
    let mut tensors = Tensors::of(gguf);
    let tied = !tensors.contains("output.weight");
    let weights = weights(&mut tensors, sizes, tied)?;
    tensors.finish()?;
    Ok(Model {
        context_length: gguf.required_size("llama.context_length")?,
        vocab_size: sizes.vocab,
        config: config(fields, sizes, tied),
        weights,
    })
}

fn sizes(gguf: &Gguf, fields: &Map<String, Json>) -> Result<Sizes, Error> {
    let size = |name: &str| {
        fields
            .get(name)
            .and_then(Json::as_u64)
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or_default()
    };
    let key = |name: &str| Place::Key(format!("{PREFIX}.{name}"));
    let (hidden, heads, kv_heads) = (
        size("hidden_size"),
        size("num_attention_heads"),
        size("num_key_value_heads"),
    );
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of the {heads} attention heads");
        return Err(gguf.inconsistent(key("attention.head_count_kv"), kv_heads.to_string(), expected));
    }
    let head_dim = match gguf.size("llama.attention.key_length")? {
        Some(length) => length as usize,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let expected = format!("a divisor of the embedding length, {hidden}");
            return Err(gguf.inconsistent(key("attention.head_count"), heads.to_string(), expected));
        }
    };
    for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
        let length = gguf
            .size(&format!("{PREFIX}.{name}"))?
            .map_or(head_dim, |length| length as usize);
        if length != head_dim || length == 0 || length % 2 == 1 {
            let expected = format!("{head_dim}, the size of a head, an even number");
            return Err(gguf.inconsistent(key(name), length.to_string(), expected));
        }
    }
    Ok(Sizes {
        hidden,
        intermediate: size("intermediate_size"),
        layers: size("num_hidden_layers"),
        heads,
        kv_heads,
        head_dim,
        vocab: vocab_size(gguf)?,
    })
}

/// The embedding's rows; the metadata may leave the size out, but must not contradict it.
fn vocab_size(gguf: &Gguf) -> Result<usize, Error> {
    let name = "token_embd.weight";
    let embedding = gguf.tensors().iter().find(|tensor| tensor.name() == name);
    let rows = embedding
        .ok_or_else(|| gguf.missing(Place::Tensor(name.into())))?
        .rows();
    match gguf.size("llama.vocab_size")? {
        Some(size) if size as usize != rows => Err(gguf.inconsistent(
            Place::Key("llama.vocab_size".into()),
            size.to_string(),
            format!("{rows}, the rows of tensor {name:?}"),
        )),
        _ => Ok(rows),
    }
}

fn weights<'a>(tensors: &mut Tensors<'a>, sizes: Sizes, tied: bool) -> Result<Vec<Weight<'a>>, Error> {
    let Sizes { hidden, vocab, .. } = sizes;
    let mut weights = Vec::new();
    let mut take = |source: String, name: String, shape: &[usize], rows: RowOrder| -> Result<(), Error> {
        let tensor = tensors.take(&source, shape)?;
        weights.push(Weight { tensor, name, rows });
        Ok(())
    };
    let plain = RowOrder::AsWritten;
    take(
        "token_embd.weight".into(),
        "model.embed_tokens.weight".into(),
        &[vocab, hidden],
        plain,
    )?;
    for layer in 0..sizes.layers {
        for (source, name, shape, rows) in layer_table(sizes) {
            let name = format!("model.layers.{layer}.{name}.weight");
            take(format!("blk.{layer}.{source}.weight"), name, &shape, rows)?;
        }
    }
    take(
        "output_norm.weight".into(),
        "model.norm.weight".into(),
        &[hidden],
        plain,
    )?;
    if !tied {
        take("output.weight".into(), "lm_head.weight".into(), &[vocab, hidden], plain)?;
    }
    Ok(weights)
}

/// GGUF name, Hugging Face name, shape and row order of a layer's tensors.
fn layer_table(sizes: Sizes) -> [(&'static str, &'static str, Vec<usize>, RowOrder); 9] {
    let Sizes {
        hidden, intermediate, ..
    } = sizes;
    let queries = sizes.heads * sizes.head_dim;
    let keys = sizes.kv_heads * sizes.head_dim;
    let plain = RowOrder::AsWritten;
    let rotary = RowOrder::InterleavedHalves {
        head_dim: sizes.head_dim,
    };
    [
        ("attn_norm", "input_layernorm", vec![hidden], plain),
        ("attn_q", "self_attn.q_proj", vec![queries, hidden], rotary),
        ("attn_k", "self_attn.k_proj", vec![keys, hidden], rotary),
        ("attn_v", "self_attn.v_proj", vec![keys, hidden], plain),
        ("attn_output", "self_attn.o_proj", vec![hidden, queries], plain),
        ("ffn_norm", "post_attention_layernorm", vec![hidden], plain),
        ("ffn_gate", "mlp.gate_proj", vec![intermediate, hidden], plain),
        ("ffn_up", "mlp.up_proj", vec![intermediate, hidden], plain),
        ("ffn_down", "mlp.down_proj", vec![hidden, intermediate], plain),
    ]
}

fn config(fields: Map<String, Json>, sizes: Sizes, tied: bool) -> Map<String, Json> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!(["LlamaForCausalLM"]));
    config.insert("model_type".into(), json!("llama"));
    config.extend(fields);
    let rest = [
        ("head_dim", json!(sizes.head_dim)),
        ("vocab_size", json!(sizes.vocab)),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("attention_dropout", json!(0.0)),
        ("mlp_bias", json!(false)),
        ("rope_scaling", Json::Null),
        ("tie_word_embeddings", json!(tied)),
        ("use_cache", json!(true)),
    ];
    config.extend(rest.map(|(name, value)| (name.to_owned(), value)));
    config
}
