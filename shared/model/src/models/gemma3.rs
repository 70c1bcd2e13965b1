//! Gemma 3, text only: Kamath et al. 2025, "Gemma 3 Technical Report" (arXiv 2503.19786). Layers that see the last positions alternate
//! with layers that see all, each kind with a rotation of its own; every part of a layer has a norm before and behind it; norms
//! multiply by one plus their weights. Follows `Gemma3ForCausalLM` of Hugging Face transformers, and the text of
//! `Gemma3ForConditionalGeneration`.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::attention::inverse_root;
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kv::LayerKv;
use crate::layers::{Activation, Gain, LayerLoader, RmsNorm, Rotation, Sight};
use crate::step::StepLayout;
use crate::transformer::{Biases, CausalLm, GatedMlp, GroupedAttention, Layer, Shape, rope, windows};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Gemma3 {
    shape: Shape,
    /// Of layers that see all positions.
    global: Kind,
    /// Of layers that see the last ones.
    sliding: Kind,
    /// Which layers those are.
    slides: Vec<bool>,
    attention_bias: bool,
}

/// How one kind of layer attends.
#[derive(Debug, Clone)]
struct Kind {
    rotation: Rotation,
    sight: Sight,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(Gemma3::read(config)?))
}

/// Reads and checks what config.json says of the text of a model that sees images too. Images are not served.
pub(super) fn read_text_part(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let mut gemma3 = Gemma3::read(&config.section("text_config.")?)?;
    gemma3.shape.prefix = "language_model.";
    Ok(Box::new(gemma3))
}

impl Gemma3 {
    fn read(config: &ConfigFile) -> Result<Self> {
        let config = config.or(&json!({
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
            "max_position_embeddings": 131_072, "tie_word_embeddings": true, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        }));
        let other_model = "use a model without it";
        for field in ["hidden_activation", "hidden_act"] {
            config.only(field, &json!("gelu_pytorch_tanh"), other_model)?;
        }
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            config.only(field, &Value::Null, other_model)?;
        }
        config.only("use_bidirectional_attention", &json!(false), other_model)?;
        let mut shape = Shape::read(&config)?;
        shape.norm.gain = Gain::OnePlusWeight;
        let [global, sliding] = rotations(&config, &shape)?;
        shape.max_position_embeddings = global.positions.min(sliding.positions);
        let pattern = config.integer("sliding_window_pattern", 1..=1 << 12)?;
        let slides = windows::sliding_layers(&config, &shape, |index| !(index + 1).is_multiple_of(pattern))?;
        let window = windows::window(&config, "sliding_window")?;
        if window.is_none() && slides.contains(&true) {
            return Err(config.refuse("sliding_window", "layers that slide need one", "set it"));
        }
        let scale = inverse_root(config.positive("query_pre_attn_scalar")?);
        let kind = |rotation, window| Kind {
            rotation,
            sight: Sight { scale, window },
        };
        Ok(Self {
            global: kind(global.rotation, None),
            sliding: kind(sliding.rotation, window),
            slides,
            attention_bias: config.boolean_or("attention_bias", false)?,
            shape,
        })
    }
}

/// Of layers that see all positions, and of those that see the last ones. Older files have one `rope_scaling`, for the former.
fn rotations(config: &ConfigFile, shape: &Shape) -> Result<[rope::Rope; 2]> {
    if let (Some(_), Some(_)) = (config.get("rope_scaling"), config.get("rope_parameters")) {
        return Err(config.refuse("rope_scaling", "rope_parameters is there too", "keep one of the two"));
    }
    config.only("partial_rotary_factor", &json!(1.0), "use a model without it")?;
    let (mut global, mut sliding) = ("rope_parameters.full_attention", "rope_parameters.sliding_attention");
    match config
        .get("rope_parameters")
        .map(|fields| (fields.get("rope_type"), fields.get("full_attention")))
    {
        None => (global, sliding) = ("rope_scaling", ""),
        Some((None, Some(_))) => {}
        Some(_) => {
            let problem = "it must have full_attention and sliding_attention";
            return Err(config.refuse("rope_parameters", problem, "download the model again"));
        }
    }
    let local = config.positive("rope_local_base_freq")?;
    let sliding_config = config.with("rope_theta", json!(local));
    Ok([
        rope::read_section(config, shape, (global, shape.head_dim))?,
        rope::read_section(&sliding_config, shape, (sliding, shape.head_dim))?,
    ])
}

impl Architecture for Gemma3 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load(&self, loader: &mut LayerLoader<'_>) -> Result<Box<dyn Decoder>> {
        let shape = &self.shape;
        let biases = Biases::all(self.attention_bias);
        let [global, sliding] = [&self.global, &self.sliding]
            .map(|kind| loader.rotary_attention(shape.heads(), &kind.rotation, kind.sight));
        let model = CausalLm::load(loader, shape, |loader, name, index| {
            let rotary = if self.slides[index as usize] { &sliding } else { &global };
            let self_attn = format!("{name}.self_attn");
            let attention = GroupedAttention::load(loader, &self_attn, shape, (biases, rotary.clone()))?;
            let attention = attention.with_head_norms(loader, &self_attn, shape)?;
            let gate = (Activation::GeluTanh, false);
            let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), shape, gate)?;
            let mut norm = |which| loader.rms_norm(&format!("{name}.{which}"), shape.hidden_size, shape.norm);
            Ok(DecoderLayer {
                self_attn: attention,
                mlp,
                input_layernorm: norm("input_layernorm")?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
                post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            })
        })?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the type that is computed with"
        )]
        let scale = f64::from(shape.hidden_size).sqrt() as f32;
        Ok(model.with_embedding_scale(scale).boxed())
    }
}

/// Attention and feed-forward, each between two norms and beside a residual.
#[derive(Debug)]
struct DecoderLayer {
    self_attn: GroupedAttention,
    mlp: GatedMlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    post_feedforward_layernorm: RmsNorm,
}

impl Layer for DecoderLayer {
    fn forward(&self, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, layout, kv)?;
        let x = x.add(self.post_attention_layernorm.forward(&attended)?)?;
        let fed = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&x)?)?;
        x.add(self.post_feedforward_layernorm.forward(&fed)?)
    }
}
