//! Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models" (arXiv 2302.13971), and Llama 2 with grouped
//! queries (arXiv 2307.09288). Follows `LlamaForCausalLM` of Hugging Face transformers, whose names the fields carry.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde_json::{Value, json};

use super::{Architecture, Decoder, Dimensions};
use crate::attention::{Heads, RotaryAttention};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kv::{KvArenas, LayerKv};
use crate::layers::{Embedding, LayerLoader, Linear, MatrixShape, RmsNorm, project, swiglu};
use crate::step::StepLayout;

const MAX_WIDTH: u32 = 1 << 20;

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    mlp_bias: bool,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    refuse_what_is_not_computed(config)?;
    let hidden_size = config.integer("hidden_size", 1..=MAX_WIDTH)?;
    let num_attention_heads = config.integer("num_attention_heads", 1..=1 << 12)?;
    let num_key_value_heads = config.integer_or("num_key_value_heads", 1..=num_attention_heads, num_attention_heads)?;
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let problem = format!("num_attention_heads, {num_attention_heads}, must be a multiple of it");
        return Err(config.refuse("num_key_value_heads", &problem, "correct it"));
    }
    let head_dim = config.integer_or("head_dim", 2..=1 << 12, hidden_size / num_attention_heads)?;
    if !head_dim.is_multiple_of(2) || head_dim == 0 {
        return Err(config.refuse("head_dim", "rotary positions need an even width", "correct it"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "computed with in float32")]
    let rms_norm_eps = config.positive_or("rms_norm_eps", 1e-6)? as f32;
    Ok(Box::new(Config {
        hidden_size,
        intermediate_size: config.integer("intermediate_size", 1..=MAX_WIDTH)?,
        num_hidden_layers: config.integer("num_hidden_layers", 1..=1 << 12)?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: config.integer("vocab_size", 1..=1 << 24)?,
        max_position_embeddings: config.integer_or("max_position_embeddings", 1..=1 << 24, 2048)?,
        rms_norm_eps,
        rope_theta: rope_theta(config)?,
        tie_word_embeddings: config.boolean_or("tie_word_embeddings", false)?,
        attention_bias: config.boolean_or("attention_bias", false)?,
        mlp_bias: config.boolean_or("mlp_bias", false)?,
    }))
}

fn refuse_what_is_not_computed(config: &ConfigFile) -> Result<()> {
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("rope_scaling", &Value::Null, other_model)?;
    config.only("rope_parameters.rope_type", &json!("default"), other_model)?;
    config.only("sliding_window", &Value::Null, other_model)?;
    config.only("partial_rotary_factor", &json!(1.0), other_model)?;
    config.only("pretraining_tp", &json!(1), "set it to 1: it changes rounding only")
}

/// Newer files keep it in `rope_parameters`.
fn rope_theta(config: &ConfigFile) -> Result<f64> {
    let outer = config.positive_or("rope_theta", 10_000.0)?;
    config.positive_or("rope_parameters.rope_theta", outer)
}

impl Config {
    fn heads(&self) -> Heads {
        Heads {
            heads: self.num_attention_heads.cast_signed(),
            kv_heads: self.num_key_value_heads.cast_signed(),
            head_dim: self.head_dim.cast_signed(),
        }
    }
}

impl Architecture for Config {
    fn dimensions(&self) -> Dimensions {
        Dimensions {
            layers: self.num_hidden_layers,
            heads: self.heads(),
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
        }
    }

    fn embedding_name(&self) -> &'static str {
        "model.embed_tokens"
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(LlamaForCausalLm::load(self, loader)?))
    }
}

/// Grouped-query attention.
#[derive(Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: RotaryAttention,
}

impl Attention {
    fn load(config: &Config, index: u32, shared: &RotaryAttention, loader: &mut LayerLoader<'_>) -> Result<Self> {
        let name = format!("model.layers.{index}.self_attn");
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let inward = |rows| MatrixShape {
            rows,
            columns: config.hidden_size,
        };
        let outward = MatrixShape {
            rows: config.hidden_size,
            columns: queries,
        };
        let bias = config.attention_bias;
        Ok(Self {
            q_proj: loader.linear(&format!("{name}.q_proj"), inward(queries), bias)?,
            k_proj: loader.linear(&format!("{name}.k_proj"), inward(keys), bias)?,
            v_proj: loader.linear(&format!("{name}.v_proj"), inward(keys), bias)?,
            o_proj: loader.linear(&format!("{name}.o_proj"), outward, bias)?,
            attention: shared.clone(),
        })
    }

    /// `x`, `residual`: `[tokens, hidden]` → the same shape.
    fn forward(&self, residual: &Array, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let new = project([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        let attended = self.attention.forward(new, layout, kv)?;
        self.o_proj.forward_onto(residual, &attended)
    }
}

/// Gated feed-forward layer.
#[derive(Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(config: &Config, name: &str, loader: &mut LayerLoader<'_>) -> Result<Self> {
        let inward = MatrixShape {
            rows: config.intermediate_size,
            columns: config.hidden_size,
        };
        let outward = MatrixShape {
            rows: config.hidden_size,
            columns: config.intermediate_size,
        };
        Ok(Self {
            gate_proj: loader.linear(&format!("{name}.gate_proj"), inward, config.mlp_bias)?,
            up_proj: loader.linear(&format!("{name}.up_proj"), inward, config.mlp_bias)?,
            down_proj: loader.linear(&format!("{name}.down_proj"), outward, config.mlp_bias)?,
        })
    }

    /// `x`, `residual`: `[tokens, hidden]` → the same shape.
    fn forward(&self, residual: &Array, x: &Array) -> MlxResult<Array> {
        let gated = swiglu(&self.gate_proj, &self.up_proj, x)?;
        self.down_proj.forward_onto(residual, &gated)
    }
}

/// One layer: attention and feed-forward, each behind a norm and beside a residual.
#[derive(Debug)]
struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(config: &Config, index: u32, shared: &RotaryAttention, loader: &mut LayerLoader<'_>) -> Result<Self> {
        let name = format!("model.layers.{index}");
        let (width, eps) = (config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::load(config, index, shared, loader)?,
            mlp: Mlp::load(config, &format!("{name}.mlp"), loader)?,
            input_layernorm: loader.rms_norm(&format!("{name}.input_layernorm"), width, eps)?,
            post_attention_layernorm: loader.rms_norm(&format!("{name}.post_attention_layernorm"), width, eps)?,
        })
    }

    /// `x`: `[tokens, hidden]` → the same shape.
    fn forward(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let x = self.self_attn.forward(x, &normed, layout, kv)?;
        let normed = self.post_attention_layernorm.forward(&x)?;
        self.mlp.forward(&x, &normed)
    }
}

/// The whole decoder with its output layer.
#[derive(Debug)]
struct LlamaForCausalLm {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `None` where the output layer is the embedding.
    lm_head: Option<Linear>,
}

impl LlamaForCausalLm {
    fn load(config: &Config, loader: &mut LayerLoader<'_>) -> Result<Self> {
        let vocabulary = MatrixShape {
            rows: config.vocab_size,
            columns: config.hidden_size,
        };
        let embed_tokens = loader.embedding(config.embedding_name(), vocabulary)?;
        let shared = loader.rotary_attention(config.heads(), config.rope_theta);
        let layers = (0..config.num_hidden_layers)
            .map(|index| DecoderLayer::load(config, index, &shared, loader))
            .collect::<Result<_>>()?;
        let norm = loader.rms_norm("model.norm", config.hidden_size, config.rms_norm_eps)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.linear("lm_head", vocabulary, false)?),
        };
        Ok(Self {
            embed_tokens,
            layers,
            norm,
            lm_head,
        })
    }
}

impl Decoder for LlamaForCausalLm {
    fn forward(&self, tokens: &Array, layout: &StepLayout, kv: &mut KvArenas) -> MlxResult<Array> {
        let mut x = self.embed_tokens.forward(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, layout, kv.layer(index))?;
        }
        Ok(x)
    }

    fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        let normed = self.norm.forward(hidden)?;
        match &self.lm_head {
            Some(head) => head.forward(&normed),
            None => self.embed_tokens.as_linear(&normed),
        }
    }
}

#[cfg(test)]
mod tests;
