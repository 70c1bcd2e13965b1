//! Attention over the KV arenas, which are written in place.

use std::sync::Arc;

use kr_kernels::{Attention, CacheShape, Preparation, RotaryTable, Span, TokenPart, Writing, write_keys, write_values};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::call::{Output, call};
use crate::attention::Heads;
use crate::kv::LayerKv;
use crate::layers::Part;

/// The angles of rotary positions, for heads of one shape. Cloning shares the table.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub(crate) heads: Heads,
    pub(crate) table: Arc<RotaryTable>,
    /// What products of queries and keys are multiplied by.
    pub(crate) scale: f32,
    /// Positions that a token sees, its own included; `None` for all.
    pub(crate) window: Option<usize>,
}

impl OwnKernels {
    /// Writes keys and values of the spans of one bucket, in place, and attends. Queries and keys are not rotated.
    /// Returns `[tokens, heads * head_dim]`, the tokens of other spans taken from `others`, or not set where there is none.
    pub(crate) fn attention(
        &self,
        rotary: &Rotary,
        spans: &Arc<[Span]>,
        [q, k, v]: [&Part; 3],
        others: Option<Array>,
        kv: &mut LayerKv,
    ) -> Result<Array> {
        let cache = rotary.heads.cache(kv);
        let (machine, table, places) = (Arc::clone(&self.machine), Arc::clone(&rotary.table), Arc::clone(spans));
        update(&mut kv.keys, k, move |new, keys| {
            let preparation = Preparation {
                norm: None,
                rotary: &table,
            };
            let spans = &places;
            write_keys(&machine, Writing { cache, spans, new }, preparation, keys);
        })?;
        let places = Arc::clone(spans);
        update(&mut kv.values, v, move |new, values| {
            let spans = &places;
            write_values(Writing { cache, spans, new }, values);
        })?;
        let (scale, window) = (rotary.scale, rotary.window);
        let (table, spans) = (Arc::clone(&rotary.table), Arc::clone(spans));
        let (machine, heads) = (Arc::clone(&self.machine), rotary.heads);
        let shape = [q.rows.dim(0), heads.heads * heads.head_dim];
        let place = PartPlace::of(q);
        let mut inputs = vec![&q.rows, &kv.keys, &kv.values];
        inputs.extend(&others);
        let output = Output {
            shape: &shape,
            replaces: others.as_ref().map(|_| 3),
        };
        call(&inputs, output, move |arrays, out| {
            let attention = Attention {
                heads: heads.heads.unsigned_abs() as usize,
                preparation: Preparation {
                    norm: None,
                    rotary: &table,
                },
                scale,
                window,
                q: place.within(arrays[0]),
                cache,
                keys: arrays[1],
                values: arrays[2],
            };
            attention.run(&machine, &spans, out);
        })
    }
}

impl Heads {
    fn cache(self, kv: &LayerKv) -> CacheShape {
        CacheShape {
            kv_heads: self.kv_heads.unsigned_abs() as usize,
            capacity: kv.keys.dim(2).unsigned_abs() as usize,
            head_dim: self.head_dim.unsigned_abs() as usize,
        }
    }
}

/// Where a [`Part`] lies, without its array.
#[derive(Debug, Clone, Copy)]
struct PartPlace {
    offset: usize,
    stride: usize,
}

impl PartPlace {
    fn of(part: &Part) -> Self {
        Self {
            offset: part.offset,
            stride: part.rows.dim(1).unsigned_abs() as usize,
        }
    }

    fn within(self, values: &[f32]) -> TokenPart<'_> {
        TokenPart {
            values,
            offset: self.offset,
            stride: self.stride,
        }
    }
}

/// Replaces `array` by what `compute` makes of it and `input`; in place, because no handle to the old one is left behind.
fn update(
    array: &mut Array,
    input: &Part,
    compute: impl Fn(TokenPart<'_>, &mut [f32]) + Send + Sync + 'static,
) -> Result<()> {
    let old = std::mem::replace(array, Array::from_f32(0.0));
    let shape = old.shape().to_vec();
    let output = Output {
        shape: &shape,
        replaces: Some(1),
    };
    let place = PartPlace::of(input);
    let inputs = [&input.rows, &old];
    *array = call(&inputs, output, move |inputs, out| {
        compute(place.within(inputs[0]), out)
    })?;
    Ok(())
}
