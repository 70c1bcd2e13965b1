//! Mistral: Jiang et al. 2023, "Mistral 7B" (arXiv 2310.06825): Llama whose attention may see only the last positions. Follows
//! `MistralForCausalLM` of Hugging Face transformers.

use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::{Activation, LayerLoader, Rotation, Sight};
use crate::transformer::{Biases, CausalLm, GatedMlp, GroupedAttention, PreNormLayer, Shape, rope, windows};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Mistral {
    shape: Shape,
    rotation: Rotation,
    sliding_window: Option<usize>,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096,
    }));
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("layer_types", &Value::Null, other_model)?;
    config.only("attention_bias", &json!(false), other_model)?;
    let mut shape = Shape::read(&config)?;
    let rope = rope::read(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    Ok(Box::new(Mistral {
        sliding_window: windows::window(&config, "sliding_window")?,
        shape,
        rotation: rope.rotation,
    }))
}

impl Architecture for Mistral {
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
            let gate = (Activation::Silu, false);
            let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), shape, gate)?;
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}
