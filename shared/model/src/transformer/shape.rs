//! The sizes that every architecture has.

use serde_json::{Value, json};

use crate::attention::{Heads, inverse_root};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::{Gain, MatrixShape, Norm, Sight};

const MAX_WIDTH: u32 = 1 << 20;

/// Settings of other architectures that would change the computation, each with the value that changes nothing.
const FOREIGN: [(&str, f64); 6] = [
    ("logit_scale", 1.0),
    ("logits_scaling", 1.0),
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("attention_multiplier", 1.0),
    ("lm_head_multiplier", 1.0),
];

/// The same, of settings that are off as null or false.
const FOREIGN_SWITCHES: [&str; 6] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "clip_qkv",
    "use_qk_norm",
    "qk_layernorm",
    "no_rope_layers",
];

/// The fields of config.json that every architecture has, under their names there.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// What all names of tensors begin with, in files that hold more than this decoder.
    pub(crate) prefix: &'static str,
    pub(crate) hidden_size: u32,
    pub(crate) intermediate_size: u32,
    pub(crate) num_hidden_layers: u32,
    pub(crate) num_attention_heads: u32,
    pub(crate) num_key_value_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) vocab_size: u32,
    pub(crate) max_position_embeddings: u32,
    pub(crate) norm: Norm,
    pub(crate) tie_word_embeddings: bool,
}

impl Shape {
    /// What classes in transformers mostly assume where config.json is silent.
    pub(crate) fn defaults() -> Value {
        json!({"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": false})
    }

    /// Reads and checks the fields.
    pub(crate) fn read(config: &ConfigFile) -> Result<Self> {
        let config = config.or(&Self::defaults());
        for (field, neutral) in FOREIGN {
            config.only(field, &json!(neutral), "use a model without it")?;
        }
        for field in FOREIGN_SWITCHES {
            config.only(field, &json!(false), "use a model without it")?;
        }
        let hidden_size = config.integer("hidden_size", 1..=MAX_WIDTH)?;
        let num_attention_heads = config.integer("num_attention_heads", 1..=1 << 12)?;
        let num_key_value_heads =
            config.integer_or("num_key_value_heads", 1..=num_attention_heads, num_attention_heads)?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let problem = format!("num_attention_heads, {num_attention_heads}, must be a multiple of it");
            return Err(config.refuse("num_key_value_heads", &problem, "correct it"));
        }
        let head_dim = config.integer_or("head_dim", 2..=1 << 12, hidden_size / num_attention_heads)?;
        if !head_dim.is_multiple_of(2) || head_dim == 0 {
            return Err(config.refuse("head_dim", "rotary positions need an even width", "correct it"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "computed with in float32")]
        let eps = config.positive("rms_norm_eps")? as f32;
        Ok(Self {
            prefix: "",
            hidden_size,
            intermediate_size: config.integer("intermediate_size", 1..=MAX_WIDTH)?,
            num_hidden_layers: config.integer("num_hidden_layers", 1..=1 << 12)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: config.integer("vocab_size", 1..=1 << 24)?,
            max_position_embeddings: config.integer("max_position_embeddings", 1..=1 << 24)?,
            norm: Norm {
                eps,
                gain: Gain::Weight,
            },
            tie_word_embeddings: config.boolean_or("tie_word_embeddings", false)?,
        })
    }

    pub(crate) fn heads(&self) -> Heads {
        Heads {
            heads: self.num_attention_heads.cast_signed(),
            kv_heads: self.num_key_value_heads.cast_signed(),
            head_dim: self.head_dim.cast_signed(),
        }
    }

    /// Queries over all positions, their products with keys divided by the root of their width.
    pub(crate) fn sight(&self) -> Sight {
        Sight {
            scale: inverse_root(f64::from(self.head_dim)),
            window: None,
        }
    }

    /// Width of all queries.
    pub(crate) fn queries(&self) -> u32 {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all keys, and of all values.
    pub(crate) fn keys(&self) -> u32 {
        self.num_key_value_heads * self.head_dim
    }

    /// A matrix from hidden states to `rows` outputs.
    pub(crate) fn inward(&self, rows: u32) -> MatrixShape {
        MatrixShape {
            rows,
            columns: self.hidden_size,
        }
    }

    /// A matrix from `columns` inputs to hidden states.
    pub(crate) fn outward(&self, columns: u32) -> MatrixShape {
        MatrixShape {
            rows: self.hidden_size,
            columns,
        }
    }
}
