//! Qwen2 and Qwen2.5: Yang et al. 2024, "Qwen2 Technical Report" (arXiv 2407.10671): Llama with biases on queries, keys and values, and
//! upper layers that may see only the last positions. Follows `Qwen2ForCausalLM` of Hugging Face transformers.

use serde_json::json;

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::{Activation, LayerLoader, Rotation};
use crate::transformer::{Biases, CausalLm, GatedMlp, GroupedAttention, PreNormLayer, Shape, rope, windows};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Qwen2 {
    shape: Shape,
    rotation: Rotation,
    /// Of each layer.
    windows: Vec<Option<usize>>,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "num_key_value_heads": 32, "max_position_embeddings": 32_768, "sliding_window": 4096, "max_window_layers": 28,
    }));
    config.only("hidden_act", &json!("silu"), "use a model without it")?;
    config.only(
        "attention_bias",
        &json!(true),
        "remove it: the architecture has biases on queries, keys and values",
    )?;
    let mut shape = Shape::read(&config)?;
    let rope = rope::read(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    Ok(Box::new(Qwen2 {
        windows: windows::of_upper_layers(&config, &shape)?,
        shape,
        rotation: rope.rotation,
    }))
}

impl Architecture for Qwen2 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let biases = Biases {
            inputs: true,
            output: false,
        };
        let rotary = loader.rotary_attention(shape.heads(), &self.rotation, shape.sight());
        let model = CausalLm::load(loader, shape, |loader, name, index| {
            let parts = (biases, rotary.within(self.windows[index as usize]));
            let attention = GroupedAttention::load(loader, &format!("{name}.self_attn"), shape, parts)?;
            let gate = (Activation::Silu, false);
            let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), shape, gate)?;
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}
