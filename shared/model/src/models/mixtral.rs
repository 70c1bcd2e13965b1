//! Mixtral: Jiang et al. 2024, "Mixtral of Experts" (arXiv 2401.04088): Mistral with experts in place of every feed-forward layer.
//! Follows `MixtralForCausalLM` of Hugging Face transformers.

use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kernels::Routing;
use crate::layers::{LayerLoader, Rotation, Sight};
use crate::transformer::{
    Biases, CausalLm, GroupedAttention, MoeNames, MoeShape, PreNormLayer, Shape, SparseMoe, rope, windows,
};

const NAMES: MoeNames = MoeNames {
    gate_proj: "w1",
    up_proj: "w3",
    down_proj: "w2",
};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Mixtral {
    shape: Shape,
    rotation: Rotation,
    sliding_window: Option<usize>,
    moe: MoeShape,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    }));
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("layer_types", &Value::Null, other_model)?;
    config.only("attention_bias", &json!(false), other_model)?;
    let mut shape = Shape::read(&config)?;
    let rope = rope::read(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    let experts = config.integer("num_local_experts", 1..=1 << 12)?;
    Ok(Box::new(Mixtral {
        moe: MoeShape {
            experts,
            intermediate_size: shape.intermediate_size,
            routing: Routing {
                chosen: config.integer("num_experts_per_tok", 1..=experts)? as usize,
                normalised: true,
            },
        },
        sliding_window: windows::window(&config, "sliding_window")?,
        shape,
        rotation: rope.rotation,
    }))
}

impl Architecture for Mixtral {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let sight = Sight {
            window: self.sliding_window,
            ..shape.sight()
        };
        let rotary = loader.rotary_attention(shape.heads(), &self.rotation, sight);
        let model = CausalLm::load(loader, shape, |loader, name, _| {
            let parts = (Biases::NONE, rotary.clone());
            let attention = GroupedAttention::load(loader, &format!("{name}.self_attn"), shape, parts)?;
            let moe = SparseMoe::load(loader, &format!("{name}.block_sparse_moe"), shape, (self.moe, NAMES))?;
            PreNormLayer::load(loader, name, shape, (attention, moe))
        })?;
        Ok(model.boxed())
    }
}
