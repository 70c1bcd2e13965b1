//! Attention of a step's tokens over the KV arenas: in MLX's own operations, which every backend has, or by a kernel of our own.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{arange, concatenate, select, softmax_axis};

use crate::cuda::DecodeAttention;
use crate::kernels::{HeadNorms, NewTokens, OwnKernels, Rotary};
use crate::kv::LayerKv;
use crate::layers::{Part, RmsNorm, Rope, Sight, dim};
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

/// What one layer's tokens bring: parts of rows of queries, keys and values, neither normed nor rotated.
#[derive(Debug)]
pub(crate) struct NewHeads<'a> {
    pub(crate) parts: [Part; 3],
    /// Norms of each query and of each key head on its own, before rotation.
    pub(crate) norms: Option<&'a [RmsNorm; 2]>,
}

/// Grouped-query attention with rotary positions. Cloning shares what layers have in common.
#[derive(Debug, Clone)]
pub(crate) struct RotaryAttention {
    pub(crate) heads: Heads,
    pub(crate) sight: Sight,
    pub(crate) rope: Rope,
    pub(crate) own: Option<(OwnKernels, Rotary)>,
    /// Single tokens in one launch, on CUDA.
    pub(crate) cuda: Option<DecodeAttention>,
}

impl RotaryAttention {
    /// The same over the last `window` positions; `None` for all.
    pub(crate) fn within(&self, window: Option<usize>) -> Self {
        let mut attention = self.clone();
        attention.sight.window = window;
        if let Some((_, rotary)) = &mut attention.own {
            rotary.window = window;
        }
        attention.cuda = self.cuda.as_ref().map(|kernel| kernel.within(window));
        attention
    }

    /// Makes queries and keys ready, writes keys and values to their positions and attends. Returns `[tokens, heads * head_dim]`.
    pub(crate) fn forward(&self, new: &NewHeads<'_>, layout: &StepLayout, kv: &mut [LayerKv]) -> Result<Array> {
        let Some((kernels, rotary)) = &self.own else {
            return match &self.cuda {
                Some(kernel) => self.attend_by_launches(kernel, new, layout, kv),
                None => self.attend(layout.grouped(), &self.rotated(new, layout.positions())?, kv),
            };
        };
        let norms = new.norms.map(|[q, k]| HeadNorms {
            q: q.weight(),
            k: k.weight(),
            eps: q.eps(),
        });
        let parts = &new.parts;
        kernels.attention(rotary, layout.by_bucket(), NewTokens { parts, norms }, kv)
    }

    /// Normed where there are norms: `[tokens, heads, head_dim]` of queries, keys and values.
    fn normed(&self, new: &NewHeads<'_>) -> Result<[Array; 3]> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = self.heads;
        let [q, k, v] = &new.parts;
        let (mut q, mut k) = (q.heads(heads, head_dim)?, k.heads(kv_heads, head_dim)?);
        if let Some([q_norm, k_norm]) = new.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        Ok([q, k, v.heads(kv_heads, head_dim)?])
    }

    fn rotated(&self, new: &NewHeads<'_>, positions: &Array) -> Result<Rotated> {
        let [q, k, v] = self.normed(new)?;
        Ok(Rotated {
            q: self.rope.forward(&q, positions)?,
            k: self.rope.forward(&k, positions)?,
            v,
        })
    }

    /// Single tokens by a kernel of ours, which writes their KV itself; what MLX writes goes before, or it would have to copy
    /// an arena that the kernel also uses.
    fn attend_by_launches(
        &self,
        kernel: &DecodeAttention,
        new: &NewHeads<'_>,
        layout: &StepLayout,
        kv: &mut [LayerKv],
    ) -> Result<Array> {
        let grouped = layout.grouped_singles();
        let mut spans = Vec::with_capacity(grouped.spans.len());
        if !grouped.spans.is_empty() {
            let rotated = self.rotated(new, layout.positions())?;
            write_spans(&grouped.spans, &rotated, kv)?;
            for span in &grouped.spans {
                spans.push(self.attend_span(span, &rotated.q, &kv[span.bucket])?);
            }
        }
        let normed = self.normed(new)?;
        let mut outputs = Vec::with_capacity(grouped.decodes.len() + spans.len());
        for decodes in &grouped.decodes {
            outputs.push(kernel.forward(&normed, decodes, &kv[decodes.bucket])?);
        }
        outputs.extend(spans);
        in_order(outputs, grouped)
    }

    fn attend(&self, layout: &Grouped, new: &Rotated, kv: &mut [LayerKv]) -> Result<Array> {
        write(layout, new, kv)?;
        let mut outputs = Vec::with_capacity(layout.decodes.len() + layout.spans.len());
        for decodes in &layout.decodes {
            outputs.push(self.attend_decodes(decodes, &new.q, &kv[decodes.bucket])?);
        }
        for span in &layout.spans {
            outputs.push(self.attend_span(span, &new.q, &kv[span.bucket])?);
        }
        in_order(outputs, layout)
    }

    /// Many sequences with one token each, over whole rows of the arena. Matrix products with an explicit mask: MLX's fused
    /// attention with a mask array fails on CUDA for such shapes. Returns `[decodes, heads * head_dim]`.
    fn attend_decodes(&self, decodes: &Decodes, q: &Array, kv: &LayerKv) -> Result<Array> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = self.heads;
        let rows = kv.keys.dim(0);
        let scale = Array::from_f32(self.sight.scale).as_dtype(q.dtype())?;
        let q = q
            .take_axis(&decodes.token_of_row, 0)?
            .reshape(&[rows, kv_heads, heads / kv_heads, head_dim])?
            .multiply(scale)?;
        let scores = q.matmul(kv.keys.swap_axes(2, 3)?)?;
        masked_softmax(&scores, &decodes.visible(self.sight.window))?
            .matmul(&kv.values)?
            .reshape(&[rows, heads * head_dim])?
            .take_axis(&decodes.rows, 0)
    }

    /// One sequence's tokens over the positions that they see and nothing beyond. Returns `[span, heads * head_dim]`.
    fn attend_span(&self, span: &Span, q: &Array, kv: &LayerKv) -> Result<Array> {
        let first = self
            .sight
            .window
            .map_or(0, |window| (span.start + 1).saturating_sub(window));
        let (row, first, end) = (dim(span.row), dim(first), dim(span.end()));
        let q = tokens_of(q, span)?.swap_axes(0, 1)?.expand_dims(0)?;
        let keys = kv.keys.try_index((row..row + 1, .., first..end))?;
        let values = kv.values.try_index((row..row + 1, .., first..end))?;
        let attended = match self.sight.window {
            Some(window) if span.len > 1 && span.end() > window => self.attend_within(window, [&q, &keys, &values])?,
            _ => {
                // Causal masks end at the last key, so a chunk sees everything before it.
                let mask = (span.len > 1).then_some(ScaledDotProductAttentionMask::Causal);
                scaled_dot_product_attention(&q, &keys, &values, self.sight.scale, mask, None)?
            }
        };
        let Heads { heads, head_dim, .. } = self.heads;
        attended.swap_axes(1, 2)?.reshape(&[dim(span.len), heads * head_dim])
    }

    /// Tokens in a row, each over the `window` positions that end with its own. `q`: `[1, heads, span, head_dim]`; keys and values:
    /// `[1, kv_heads, positions, head_dim]`, the last one that of the last token. In matrix products, as decodes are.
    fn attend_within(&self, window: usize, [q, keys, values]: [&Array; 3]) -> Result<Array> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = self.heads;
        let (span, positions) = (q.dim(2), keys.dim(2));
        let scale = Array::from_f32(self.sight.scale).as_dtype(q.dtype())?;
        let grouped = q
            .reshape(&[kv_heads, heads / kv_heads, span, head_dim])?
            .multiply(scale)?;
        let scores = grouped.matmul(keys.swap_axes(2, 3)?.reshape(&[kv_heads, 1, head_dim, positions])?)?;
        let last = arange::<_, i32>(positions - span, positions, None)?.expand_dims(1)?;
        let position = arange::<_, i32>(0, positions, None)?.expand_dims(0)?;
        let seen = position
            .le(&last)?
            .logical_and(position.gt(last.subtract(Array::from_int(dim(window)))?)?)?;
        masked_softmax(&scores, &seen)?
            .matmul(values.reshape(&[kv_heads, 1, positions, head_dim])?)?
            .reshape(&[1, heads, span, head_dim])
    }
}

/// Outputs of decodes followed by spans → those of the flat batch.
fn in_order(mut outputs: Vec<Array>, layout: &Grouped) -> Result<Array> {
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
    write_spans(&layout.spans, new, kv)
}

fn write_spans(spans: &[Span], new: &Rotated, kv: &mut [LayerKv]) -> Result<()> {
    for span in spans {
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

/// The softmax of what is `visible`; the rest weighs nothing.
fn masked_softmax(scores: &Array, visible: &Array) -> Result<Array> {
    let hidden = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
    softmax_axis(select(visible, scores, &hidden)?, -1, true)
}

/// `1 / sqrt(width)`: what products of queries and keys are mostly multiplied by.
pub(crate) fn inverse_root(width: f64) -> f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounds to the type that is computed with"
    )]
    let scale = width.sqrt().recip() as f32;
    scale
}
