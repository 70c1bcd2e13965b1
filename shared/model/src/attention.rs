//! Attention of a step's tokens over the KV arenas: in MLX's own operations, which every backend has, or by a kernel of our own.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, select, softmax_axis};

use crate::kernels::{NewTokens, OwnKernels, Rotary};
use crate::kv::LayerKv;
use crate::layers::{Part, Rope, dim};
use crate::step::{Decodes, Grouped, Span, StepLayout};

/// The heads of an attention layer: `heads` queries share `kv_heads` keys and values, `heads / kv_heads` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) heads: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
}

/// What one layer's tokens bring, rotary positions applied: `q`: `[tokens, heads, head_dim]`, `k` and `v`: `[tokens, kv_heads, head_dim]`.
#[derive(Debug)]
struct Rotated {
    q: Array,
    k: Array,
    v: Array,
}

/// Grouped-query attention with rotary positions. Cloning shares what layers have in common.
#[derive(Debug, Clone)]
pub(crate) struct RotaryAttention {
    pub(crate) heads: Heads,
    pub(crate) rope: Rope,
    pub(crate) own: Option<(OwnKernels, Rotary)>,
}

impl RotaryAttention {
    /// Rotates queries and keys, writes keys and values to their positions and attends. Returns `[tokens, heads * head_dim]`.
    pub(crate) fn forward(&self, [q, k, v]: [Part; 3], layout: &StepLayout, kv: &mut [LayerKv]) -> Result<Array> {
        let Some((kernels, rotary)) = &self.own else {
            let Heads {
                heads,
                kv_heads,
                head_dim,
            } = self.heads;
            let rotated = Rotated {
                q: self.rope.forward(&q.heads(heads, head_dim)?, layout.positions())?,
                k: self.rope.forward(&k.heads(kv_heads, head_dim)?, layout.positions())?,
                v: v.heads(kv_heads, head_dim)?,
            };
            return attend(layout.grouped(), self.heads, &rotated, kv);
        };
        let new = NewTokens {
            parts: &[q, k, v],
            norms: None,
        };
        kernels.attention(rotary, layout.by_bucket(), new, kv)
    }
}

fn attend(layout: &Grouped, heads: Heads, new: &Rotated, kv: &mut [LayerKv]) -> Result<Array> {
    write(layout, new, kv)?;
    let mut outputs = Vec::with_capacity(layout.decodes.len() + layout.spans.len());
    for decodes in &layout.decodes {
        outputs.push(attend_decodes(decodes, heads, &new.q, &kv[decodes.bucket])?);
    }
    for span in &layout.spans {
        outputs.push(attend_span(span, heads, &new.q, &kv[span.bucket])?);
    }
    let output = match outputs.len() {
        1 => outputs.swap_remove(0),
        _ => concatenate(&outputs, 0)?,
    };
    match &layout.order {
        None => Ok(output),
        Some(order) => output.take_axis(order, 0),
    }
}

/// Updates in place: the arenas' handles are replaced, so that MLX finds nobody else using their memory.
fn write(layout: &Grouped, new: &Rotated, kv: &mut [LayerKv]) -> Result<()> {
    for decodes in &layout.decodes {
        let arena = &mut kv[decodes.bucket];
        for (target, source) in [(&mut arena.keys, &new.k), (&mut arena.values, &new.v)] {
            let update = source.take_axis(&decodes.offsets, 0)?;
            target.try_index_mut((&decodes.rows, .., &decodes.positions), &update)?;
        }
    }
    for span in &layout.spans {
        let arena = &mut kv[span.bucket];
        let (row, start, end) = (dim(span.row), dim(span.start), dim(span.end()));
        for (target, source) in [(&mut arena.keys, &new.k), (&mut arena.values, &new.v)] {
            let update = tokens_of(source, span)?.swap_axes(0, 1)?.expand_dims(0)?;
            target.try_index_mut((row..row + 1, .., start..end), &update)?;
        }
    }
    Ok(())
}

fn tokens_of(x: &Array, span: &Span) -> Result<Array> {
    x.try_index(dim(span.offset)..dim(span.offset + span.len))
}

/// Many sequences with one token each, over whole rows of the arena. Matrix products with an explicit mask: MLX's fused attention
/// with a mask array fails on CUDA for such shapes. Returns `[decodes, heads * head_dim]`.
fn attend_decodes(decodes: &Decodes, heads: Heads, q: &Array, kv: &LayerKv) -> Result<Array> {
    let Heads {
        heads: count,
        kv_heads,
        head_dim,
    } = heads;
    let rows = kv.keys.dim(0);
    let q = q
        .take_axis(&decodes.token_of_row, 0)?
        .reshape(&[rows, kv_heads, count / kv_heads, head_dim])?
        .multiply(scale(heads, q)?)?;
    let scores = q.matmul(kv.keys.swap_axes(2, 3)?)?;
    let hidden = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
    let weights = softmax_axis(select(&decodes.visible, &scores, &hidden)?, -1, true)?;
    weights
        .matmul(&kv.values)?
        .reshape(&[rows, count * head_dim])?
        .take_axis(&decodes.rows, 0)
}

/// One sequence's tokens over the positions up to their own and nothing beyond. Returns `[span, heads * head_dim]`.
fn attend_span(span: &Span, heads: Heads, q: &Array, kv: &LayerKv) -> Result<Array> {
    let (row, end) = (dim(span.row), dim(span.end()));
    let q = tokens_of(q, span)?.swap_axes(0, 1)?.expand_dims(0)?;
    let keys = kv.keys.try_index((row..row + 1, .., 0..end))?;
    let values = kv.values.try_index((row..row + 1, .., 0..end))?;
    // Causal masks end at the last key, so a chunk sees everything before it.
    let mask = (span.len > 1).then_some(ScaledDotProductAttentionMask::Causal);
    scaled_dot_product_attention(&q, &keys, &values, inverse_root(heads), mask, None)?
        .swap_axes(1, 2)?
        .reshape(&[dim(span.len), heads.heads * heads.head_dim])
}

/// What products of queries and keys are multiplied by.
pub(crate) fn inverse_root(heads: Heads) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2^24 elements")]
    let width = heads.head_dim as f32;
    width.sqrt().recip()
}

fn scale(heads: Heads, like: &Array) -> Result<Array> {
    Array::from_f32(inverse_root(heads)).as_dtype(like.dtype())
}
