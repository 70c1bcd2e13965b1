//! Layers one after another, from tokens to logits.

use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use super::Shape;
use crate::error::Result;
use crate::kv::{KvArenas, LayerKv};
use crate::layers::{Embedding, LayerLoader, Linear, RmsNorm};
use crate::models::Decoder;
use crate::step::StepLayout;

/// One layer.
pub(crate) trait Layer: Debug {
    /// `x`: `[tokens, hidden]` → the same shape. Writes the tokens' KV.
    fn forward(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array>;
}

/// The attention part of a [`PreNormLayer`].
pub(crate) trait SelfAttention: Debug {
    /// `x`, `residual`: `[tokens, hidden]` → the same shape: what attention makes of `x`, onto `residual`.
    fn forward_onto(&self, residual: &Array, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array>;
}

/// The feed-forward part of a [`PreNormLayer`].
pub(crate) trait FeedForward: Debug {
    /// `x`, `residual`: `[tokens, hidden]` → the same shape: what the part makes of `x`, onto `residual`.
    fn forward_onto(&self, residual: &Array, x: &Array) -> MlxResult<Array>;
}

/// Attention and feed-forward, each behind a norm and beside a residual.
#[derive(Debug)]
pub(crate) struct PreNormLayer<A, M> {
    self_attn: A,
    mlp: M,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl<A, M> PreNormLayer<A, M> {
    /// Loads the norms of layer `name` around its parts.
    pub(crate) fn load(
        loader: &mut LayerLoader<'_>,
        name: &str,
        shape: &Shape,
        (self_attn, mlp): (A, M),
    ) -> Result<Self> {
        let mut norm = |which| loader.rms_norm(&format!("{name}.{which}"), shape.hidden_size, shape.norm);
        Ok(Self {
            self_attn,
            mlp,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }
}

impl<A: SelfAttention, M: FeedForward> Layer for PreNormLayer<A, M> {
    fn forward(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let x = self.self_attn.forward_onto(x, &normed, layout, kv)?;
        let normed = self.post_attention_layernorm.forward(&x)?;
        self.mlp.forward_onto(&x, &normed)
    }
}

/// The whole decoder with its output layer.
#[derive(Debug)]
pub(crate) struct CausalLm<L> {
    embed_tokens: Embedding,
    /// What token vectors are multiplied by, if anything.
    embedding_scale: Option<f32>,
    layers: Vec<L>,
    norm: RmsNorm,
    /// `None` where the output layer is the embedding.
    lm_head: Option<Linear>,
}

impl<L: Layer + 'static> CausalLm<L> {
    /// Loads everything; `layer` is called with the name of each layer and its index, in order.
    pub(crate) fn load(
        loader: &mut LayerLoader<'_>,
        shape: &Shape,
        mut layer: impl FnMut(&mut LayerLoader<'_>, &str, u32) -> Result<L>,
    ) -> Result<Self> {
        let vocabulary = shape.inward(shape.vocab_size);
        let prefix = shape.prefix;
        let embed_tokens = loader.embedding(&format!("{prefix}model.embed_tokens"), vocabulary)?;
        let layers = (0..shape.num_hidden_layers)
            .map(|index| layer(loader, &format!("{prefix}model.layers.{index}"), index))
            .collect::<Result<_>>()?;
        let norm = loader.rms_norm(&format!("{prefix}model.norm"), shape.hidden_size, shape.norm)?;
        let lm_head = match shape.tie_word_embeddings {
            true => None,
            false => Some(loader.linear(&format!("{prefix}lm_head"), vocabulary, false)?),
        };
        Ok(Self {
            embed_tokens,
            embedding_scale: None,
            layers,
            norm,
            lm_head,
        })
    }

    /// The same with token vectors multiplied by `scale`, rounded to their type.
    pub(crate) fn with_embedding_scale(mut self, scale: f32) -> Self {
        self.embedding_scale = Some(scale);
        self
    }

    pub(crate) fn boxed(self) -> Box<dyn Decoder> {
        Box::new(self)
    }
}

impl<L: Layer> Decoder for CausalLm<L> {
    fn forward(&self, tokens: &Array, layout: &StepLayout, kv: &mut KvArenas) -> MlxResult<Array> {
        let mut x = self.embed_tokens.forward(tokens)?;
        if let Some(scale) = self.embedding_scale {
            x = x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?)?;
        }
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
