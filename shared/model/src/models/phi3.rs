//! Phi-3 and Phi-4-mini: Abdin et al. 2024, "Phi-3 Technical Report" (arXiv 2404.14219): Llama whose queries, keys and values come from
//! one matrix, gate and up from another, and whose heads may be turned in part. Follows `Phi3ForCausalLM` of Hugging Face
//! transformers.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde_json::{Value, json};

use super::{Architecture, Decoder};
use crate::attention::{NewHeads, RotaryAttention};
use crate::config::ConfigFile;
use crate::error::Result;
use crate::kv::LayerKv;
use crate::layers::{Activation, Gate, LayerLoader, Linear, Part, Rotation, Sight};
use crate::step::StepLayout;
use crate::transformer::{CausalLm, FeedForward, PreNormLayer, SelfAttention, Shape, rope, windows};

/// The fields of config.json that shape the computation.
#[derive(Debug, Clone)]
struct Phi3 {
    shape: Shape,
    rotation: Rotation,
    sliding_window: Option<usize>,
}

/// Reads and checks config.json.
pub(super) fn read(config: &ConfigFile) -> Result<Box<dyn Architecture>> {
    let config = config.or(&json!({
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    }));
    let other_model = "use a model without it";
    config.only("hidden_act", &json!("silu"), other_model)?;
    config.only("layer_types", &Value::Null, other_model)?;
    for field in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        config.only(field, &json!(false), other_model)?;
    }
    let mut shape = Shape::read(&config)?;
    let rope = rope::read_partial(&config, &shape)?;
    shape.max_position_embeddings = rope.positions;
    Ok(Box::new(Phi3 {
        sliding_window: windows::window(&config, "sliding_window")?,
        shape,
        rotation: rope.rotation,
    }))
}

impl Architecture for Phi3 {
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
            let attention = Attention::load(loader, &format!("{name}.self_attn"), shape, rotary.clone())?;
            let mlp = Mlp::load(loader, &format!("{name}.mlp"), shape)?;
            PreNormLayer::load(loader, name, shape, (attention, mlp))
        })?;
        Ok(model.boxed())
    }
}

/// Attention whose queries, keys and values lie side by side.
#[derive(Debug)]
struct Attention {
    qkv_proj: Linear,
    o_proj: Linear,
    rotary: RotaryAttention,
    /// Where keys and values begin in a row.
    offsets: [usize; 2],
}

impl Attention {
    fn load(loader: &mut LayerLoader<'_>, name: &str, shape: &Shape, rotary: RotaryAttention) -> Result<Self> {
        let (queries, keys) = (shape.queries(), shape.keys());
        Ok(Self {
            qkv_proj: loader.linear(&format!("{name}.qkv_proj"), shape.inward(queries + 2 * keys), false)?,
            o_proj: loader.linear(&format!("{name}.o_proj"), shape.outward(queries), false)?,
            rotary,
            offsets: [queries as usize, (queries + keys) as usize],
        })
    }
}

impl SelfAttention for Attention {
    fn forward_onto(&self, residual: &Array, x: &Array, layout: &StepLayout, kv: &mut [LayerKv]) -> MlxResult<Array> {
        let rows = self.qkv_proj.forward(x)?;
        let [keys, values] = self.offsets;
        let new = NewHeads {
            parts: [0, keys, values].map(|offset| part(&rows, offset)),
            norms: None,
        };
        drop(rows);
        let attended = self.rotary.forward(&new, layout, kv)?;
        self.o_proj.forward_onto(residual, &attended)
    }
}

fn part(rows: &Array, offset: usize) -> Part {
    let rows = rows.clone();
    Part { rows, offset }
}

/// Feed-forward layer whose gate and up lie side by side.
#[derive(Debug)]
struct Mlp {
    gate_up_proj: Linear,
    down_proj: Linear,
    gate: Gate,
    /// Where up begins in a row.
    offset: usize,
}

impl Mlp {
    fn load(loader: &mut LayerLoader<'_>, name: &str, shape: &Shape) -> Result<Self> {
        let width = shape.intermediate_size;
        Ok(Self {
            gate_up_proj: loader.linear(&format!("{name}.gate_up_proj"), shape.inward(2 * width), false)?,
            down_proj: loader.linear(&format!("{name}.down_proj"), shape.outward(width), false)?,
            gate: loader.gate(Activation::Silu, width),
            offset: width as usize,
        })
    }
}

impl FeedForward for Mlp {
    fn forward_onto(&self, residual: &Array, x: &Array) -> MlxResult<Array> {
        let rows = self.gate_up_proj.forward(x)?;
        let gated = self.gate.forward([&part(&rows, 0), &part(&rows, self.offset)])?;
        self.down_proj.forward_onto(residual, &gated)
    }
}
