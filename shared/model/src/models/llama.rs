//! Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models" (arXiv 2302.13971), Llama 2 with grouped queries
//! (arXiv 2307.09288) and Llama 3.1 with stretched contexts (arXiv 2407.21783). Follows `LlamaForCausalLM` of Hugging Face
//! transformers, whose names the fields carry.

use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::{Activation, LayerLoader, Rotation};
use crate::transformer::{Biases, CausalLm, GatedMlp, GroupedAttention, PreNormLayer, Shape, rope};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Llama {
    shape: Shape,
    rotation: Rotation,
    attention_bias: bool,
    mlp_bias: bool,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("sliding_window", &Value::Null, other_model)?;
    config.only("layer_types", &Value::Null, other_model)?;
    config.only("pretraining_tp", &json!(1), "set it to 1: it changes rounding only")?;
    let mut shape = Shape::read(config)?;
    let rope = rope::read(config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    Ok(Box::new(Llama {
        shape,
        rotation: rope.rotation,
        attention_bias: config.boolean_or("attention_bias", false)?,
        mlp_bias: config.boolean_or("mlp_bias", false)?,
    }))
}

impl Architecture for Llama {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let biases = Biases::all(self.attention_bias);
        let rotary = loader.rotary_attention(shape.heads(), &self.rotation, shape.sight());
        let model = CausalLm::load(loader, shape, |loader, name, _| {
            let parts = (biases, rotary.clone());
            let attention = GroupedAttention::load(loader, &format!("{name}.self_attn"), shape, parts)?;
            let gate = (Activation::Silu, self.mlp_bias);
            let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), shape, gate)?;
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}

#[cfg(test)]
mod tests;
