//! The architectures that can be loaded. A new one is a file below `models/` and a line in [`LOADERS`].

mod gemma3;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use crate::attention::Heads;
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kv::KvArenas;
use crate::layers::LayerLoader;
use crate::step::StepLayout;
use crate::transformer::Shape;

/// What the rest of the crate must know of any architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dimensions {
    pub(crate) layers: u32,
    pub(crate) heads: Heads,
    pub(crate) vocab_size: u32,
    pub(crate) max_position_embeddings: u32,
}

/// A decoder-only transformer with its weights.
pub(crate) trait Decoder: std::fmt::Debug {
    /// `tokens`: `[tokens]`, int32 → hidden states after the last layer `[tokens, hidden]`. Writes every token's KV.
    fn forward(&self, tokens: &Array, layout: &StepLayout, kv: &mut KvArenas) -> MlxResult<Array>;

    /// `hidden`: `[rows, hidden]`, of the rows that are sampled → logits `[rows, vocabulary]`.
    fn logits(&self, hidden: &Array) -> MlxResult<Array>;
}

/// An architecture with its part of config.json.
pub(crate) trait Architecture: std::fmt::Debug {
    fn shape(&self) -> &Shape;

    fn dimensions(&self) -> Dimensions {
        let shape = self.shape();
        Dimensions {
            layers: shape.num_hidden_layers,
            heads: shape.heads(),
            vocab_size: shape.vocab_size,
            max_position_embeddings: shape.max_position_embeddings,
        }
    }

    /// A tensor whose type stands for the model's own: the embedding's, or its scales where it is quantised.
    fn embedding_name(&self) -> String {
        format!("{}model.embed_tokens", self.shape().prefix)
    }

    /// Loads the weights.
    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>>;
}

type Read = fn(&ConfigFile) -> Result<Box<dyn Architecture>>;

const LOADERS: [(&str, Read); 9] = [
    ("LlamaForCausalLM", llama::read),
    ("MistralForCausalLM", mistral::read),
    ("Qwen2ForCausalLM", qwen2::read),
    ("Qwen3ForCausalLM", qwen3::read),
    ("Gemma3ForCausalLM", gemma3::read),
    ("Gemma3ForConditionalGeneration", gemma3::read_text_part),
    ("Phi3ForCausalLM", phi3::read),
    ("Qwen3MoeForCausalLM", qwen3_moe::read),
    ("MixtralForCausalLM", mixtral::read),
];

/// Finds the architecture that config.json names and reads its fields.
pub(crate) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let name = config.architecture()?;
    match LOADERS.iter().find(|(known, _)| *known == name) {
        Some((_, read)) => read(config),
        None => {
            let known = LOADERS.map(|(known, _)| known).join(", ");
            let cure = format!("use a model of a supported architecture ({known})");
            Err(config.refuse("architectures", "this architecture is not supported", &cure))
        }
    }
}

#[cfg(test)]
mod tests;
