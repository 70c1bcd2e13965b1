//! Qwen3's mixtures of experts: Yang et al. 2025, "Qwen3 Technical Report" (arXiv 2505.09388): Qwen3 with experts in place of the
//! feed-forward layer of some layers or all. Follows `Qwen3MoeForCausalLM` of Hugging Face transformers.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kernels::Routing;
use crate::layers::{Activation, LayerLoader, Rotation, Sight};
use crate::transformer::{
    Biases, CausalLm, FeedForward, GatedMlp, GroupedAttention, MoeNames, MoeShape, PreNormLayer, Shape, SparseMoe,
    rope, windows,
};

const NAMES: MoeNames = MoeNames {
    gate_proj: "gate_proj",
    up_proj: "up_proj",
    down_proj: "down_proj",
};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Qwen3Moe {
    shape: Shape,
    rotation: Rotation,
    attention_bias: bool,
    sliding_window: Option<usize>,
    moe: MoeShape,
    /// Which layers have experts.
    sparse: Vec<bool>,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "num_key_value_heads": 4, "max_position_embeddings": 32_768, "sliding_window": 4096, "decoder_sparse_step": 1,
        "moe_intermediate_size": 768, "num_experts_per_tok": 8,
    }));
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("layer_types", &Value::Null, other_model)?;
    let mut shape = Shape::read(&config)?;
    let rope = rope::read(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    let sliding_window = match config.boolean_or("use_sliding_window", false)? {
        true => windows::window(&config, "sliding_window")?,
        false => None,
    };
    Ok(Box::new(Qwen3Moe {
        moe: experts(&config)?,
        sparse: sparse_layers(&config, &shape)?,
        attention_bias: config.boolean_or("attention_bias", false)?,
        sliding_window,
        shape,
        rotation: rope.rotation,
    }))
}

fn experts(config: &ConfigFile) -> Result<MoeShape> {
    let (field, other) = ("num_experts", "num_local_experts");
    let experts = match config.get(field) {
        Some(_) => config.integer(field, 1..=1 << 12)?,
        None => config.integer_or(other, 1..=1 << 12, 128)?,
    };
    config.only(other, &json!(experts), "keep one of it and num_experts")?;
    Ok(MoeShape {
        experts,
        intermediate_size: config.integer("moe_intermediate_size", 1..=1 << 20)?,
        routing: Routing {
            chosen: config.integer("num_experts_per_tok", 1..=experts)? as usize,
            normalised: config.boolean_or("norm_topk_prob", false)?,
        },
    })
}

/// Every `decoder_sparse_step`th layer but `mlp_only_layers`.
fn sparse_layers(config: &ConfigFile, shape: &Shape) -> Result<Vec<bool>> {
    let step = config.integer("decoder_sparse_step", 1..=1 << 12)?;
    let field = "mlp_only_layers";
    let dense: Option<Vec<u64>> = match config.get(field) {
        None => Some(Vec::new()),
        Some(value) => value
            .as_array()
            .and_then(|layers| layers.iter().map(Value::as_u64).collect()),
    };
    let dense = dense.ok_or_else(|| config.refuse(field, "it must be a list of layers", "correct it"))?;
    let sparse = |layer: u32| !dense.contains(&u64::from(layer)) && (layer + 1).is_multiple_of(step);
    Ok((0..shape.num_hidden_layers).map(sparse).collect())
}

impl Architecture for Qwen3Moe {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let biases = Biases::all(self.attention_bias);
        let sight = Sight {
            window: self.sliding_window,
            ..shape.sight()
        };
        let rotary = loader.rotary_attention(shape.heads(), &self.rotation, sight);
        let model = CausalLm::load(loader, shape, |loader, name, index| {
            let (self_attn, mlp) = (format!("{name}.self_attn"), format!("{name}.mlp"));
            let attention = GroupedAttention::load(loader, &self_attn, shape, (biases, rotary.clone()))?;
            let attention = attention.with_head_norms(loader, &self_attn, shape)?;
            let mlp = match self.sparse[index as usize] {
                true => Mlp::Sparse(SparseMoe::load(loader, &mlp, shape, (self.moe, NAMES))?),
                false => Mlp::Dense(GatedMlp::load(loader, &mlp, shape, (Activation::Silu, false))?),
            };
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}

#[derive(Debug)]
enum Mlp {
    Dense(GatedMlp),
    Sparse(SparseMoe),
}

impl FeedForward for Mlp {
    fn forward_onto(&self, residual: &Array, x: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(mlp) => mlp.forward_onto(residual, x),
            Self::Sparse(moe) => moe.forward_onto(residual, x),
        }
    }
}
