//! Qwen3, the dense ones: Yang et al. 2025, "Qwen3 Technical Report" (arXiv 2505.09388): Llama with a norm over each head of queries and
//! keys, and upper layers that may see only the last positions. Follows `Qwen3ForCausalLM` of Hugging Face transformers.

use serde_json::json;

use super::{Architecture, Decoder};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::{Activation, LayerLoader, Rotation};
use crate::transformer::{Biases, CausalLm, GatedMlp, GroupedAttention, PreNormLayer, Shape, rope, windows};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Qwen3 {
    shape: Shape,
    rotation: Rotation,
    attention_bias: bool,
    /// Of each layer.
    windows: Vec<Option<usize>>,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768, "sliding_window": 4096,
        "max_window_layers": 28,
    }));
    config.only("hidden_act", &json!("silu"), "use a model without it")?;
    let mut shape = Shape::read(&config)?;
    let rope = rope::read(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    Ok(Box::new(Qwen3 {
        windows: windows::of_upper_layers(&config, &shape)?,
        attention_bias: config.boolean_or("attention_bias", false)?,
        shape,
        rotation: rope.rotation,
    }))
}

impl Architecture for Qwen3 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let biases = Biases::all(self.attention_bias);
        let rotary = loader.rotary_attention(shape.heads(), &self.rotation, shape.sight());
        let model = CausalLm::load(loader, shape, |loader, name, index| {
            let self_attn = format!("{name}.self_attn");
            let parts = (biases, rotary.within(self.windows[index as usize]));
            let attention = GroupedAttention::load(loader, &self_attn, shape, parts)?;
            let attention = attention.with_head_norms(loader, &self_attn, shape)?;
            let gate = (Activation::Silu, false);
            let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), shape, gate)?;
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}
