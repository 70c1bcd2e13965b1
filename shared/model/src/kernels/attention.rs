//! Attention over the KV arenas, which are written in place.

use std::sync::Arc;

use kr_kernels::{
    Attention, CacheShape, HeadNorm, Preparation, RotaryTable, TokenPart, Writing, write_keys, write_values,
};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::memory::{fresh, read, write};
use crate::attention::Heads;
use crate::kv::LayerKv;
use crate::layers::Part;
use crate::step::BucketSpans;

/// How queries meet keys, for heads of one shape. Cloning shares the table.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub(crate) heads: Heads,
    pub(crate) table: Arc<RotaryTable>,
    /// What products of queries and keys are multiplied by.
    pub(crate) scale: f32,
    /// Positions that a token sees, its own included; `None` for all.
    pub(crate) window: Option<usize>,
}

/// Norms of each head on its own, before rotation: `[head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms<'a> {
    pub(crate) q: &'a Array,
    pub(crate) k: &'a Array,
    pub(crate) eps: f32,
}

/// What one layer's tokens bring: parts of rows, `[tokens, heads * head_dim]` of queries, keys and values, neither normed nor rotated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewTokens<'a> {
    pub(crate) parts: &'a [Part; 3],
    pub(crate) norms: Option<HeadNorms<'a>>,
}

impl OwnKernels {
    /// Writes keys and values of the spans of every bucket, in place, and attends. Returns `[tokens, heads * head_dim]`.
    pub(crate) fn attention(
        &self,
        rotary: &Rotary,
        buckets: &[BucketSpans],
        new: NewTokens<'_>,
        kv: &mut [LayerKv],
    ) -> Result<Array> {
        let heads = rotary.heads;
        let [q, k, v] = new.parts;
        let mut out = fresh::<f32>(&[q.rows.dim(0), heads.heads * heads.head_dim])?;
        let target = write(&mut out)?;
        for BucketSpans { bucket, spans } in buckets {
            let kv = &mut kv[*bucket];
            let cache = heads.cache(kv);
            let writing = |new| Writing { cache, spans, new };
            let prepared = rotary.preparation(new.norms.map(|norms| (norms.k, norms.eps)))?;
            write_keys(&self.machine, writing(part(k)?), prepared, write(&mut kv.keys)?);
            write_values(&self.machine, writing(part(v)?), write(&mut kv.values)?);
            let attention = Attention {
                heads: heads.heads.unsigned_abs() as usize,
                preparation: rotary.preparation(new.norms.map(|norms| (norms.q, norms.eps)))?,
                scale: rotary.scale,
                window: rotary.window,
                q: part(q)?,
                cache,
                keys: read(&kv.keys)?,
                values: read(&kv.values)?,
            };
            attention.run(&self.machine, spans, target);
        }
        Ok(out)
    }
}

impl Rotary {
    fn preparation<'a>(&'a self, norm: Option<(&'a Array, f32)>) -> Result<Preparation<'a>> {
        let norm = match norm {
            Some((weight, eps)) => Some(HeadNorm {
                weight: read(weight)?,
                eps,
            }),
            None => None,
        };
        Ok(Preparation {
            norm,
            rotary: &self.table,
        })
    }
}

fn part(part: &Part) -> Result<TokenPart<'_>> {
    Ok(TokenPart {
        values: read(&part.rows)?,
        offset: part.offset,
        stride: part.rows.dim(1).unsigned_abs() as usize,
    })
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
