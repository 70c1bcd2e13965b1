//! Attention of new tokens over a KV cache, written to and read from in place: only positions that are written are ever touched.
#![expect(unsafe_code, reason = "vector loads and stores, one output shared by threads")]

mod block;
mod cache;
mod head;
mod rotary;

use std::ops::Range;

use crate::Machine;
use crate::profile::{Part, measure};
use block::{Block, attend_block};
use cache::{disjoint, pieces};

pub use cache::{CacheShape, Span, TokenPart, Writing, write_keys, write_values};
pub use head::{HeadNorm, Preparation};
pub use rotary::RotaryTable;

/// Queries that are attended together, of one span and one head of keys: they share what they read of the cache while it is near.
const BLOCK_QUERIES: usize = 32;

/// Multiply-adds below which other threads are not asked for help: they would come too late.
const SMALL: usize = 1 << 15;

/// Grouped-query attention: `heads` queries share the cache's keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Heads of queries.
    pub heads: usize,
    /// What becomes of queries before they meet the keys.
    pub preparation: Preparation<'a>,
    /// What products of queries and keys are multiplied by: mostly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a token sees, its own included; `None` for all up to its own.
    pub window: Option<usize>,
    /// `[tokens, heads, head_dim]`, not prepared.
    pub q: TokenPart<'a>,
    /// Of `keys` and of `values`.
    pub cache: CacheShape,
    /// Prepared; written up to the last position of every span.
    pub keys: &'a [f32],
    /// Written up to the last position of every span.
    pub values: &'a [f32],
}

impl Attention<'_> {
    /// Attends each token of `spans` to its sequence up to itself. `out`: `[tokens, heads, head_dim]`; tokens of no span keep what is
    /// there.
    ///
    /// # Panics
    /// When a span lies outside the batch, the cache or the table of angles, or lengths do not agree.
    pub fn run(&self, machine: &Machine, spans: &[Span], out: &mut [f32]) {
        let _measure = measure(Part::Attention);
        self.check(spans, out);
        let CacheShape { kv_heads, head_dim, .. } = self.cache;
        let group = self.heads / kv_heads;
        let tokens = (BLOCK_QUERIES / group).max(1);
        let blocks: Vec<_> = pieces(spans, tokens).collect();
        let out = SharedOutput(out.as_mut_ptr());
        let work = |task: usize| {
            let (span, tokens) = &blocks[task / kv_heads];
            let block = Block {
                attention: self,
                span: **span,
                tokens: tokens.clone(),
                head: task % kv_heads,
            };
            attend_block(machine.instructions, &block, &out);
        };
        let seen = |span: &Span| span.len * (span.start + span.len).min(self.window.unwrap_or(usize::MAX));
        let products = 2 * self.heads * head_dim * spans.iter().map(seen).sum::<usize>();
        match products < SMALL {
            true => (0..blocks.len() * kv_heads).for_each(work),
            // The longest ones, which come last, are begun first.
            false => {
                let last = (blocks.len() * kv_heads).saturating_sub(1);
                machine.pool.run(last + 1, &|task| work(last - task));
            }
        }
    }

    fn check(&self, spans: &[Span], out: &[f32]) {
        let CacheShape { kv_heads, head_dim, .. } = self.cache;
        let count = self.q.tokens();
        assert!(self.heads.is_multiple_of(kv_heads) && self.window != Some(0));
        self.preparation.check(head_dim);
        assert!(out.len() == count * self.heads * head_dim);
        assert!(self.keys.len() == self.values.len());
        self.cache.check(spans, count, self.keys);
        disjoint(spans.iter().map(|span| (0, span.offset..span.offset + span.len)));
    }
}

/// Written by several threads, each to elements of its own.
struct SharedOutput(*mut f32);

impl SharedOutput {
    /// # Safety
    /// The elements lie within the output, which outlives the result, and nobody else uses them.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, the caller's promise")]
    unsafe fn elements(&self, place: Range<usize>) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(place.start), place.len()) }
    }
}

// SAFETY: threads write disjoint ranges, see `Attention::run` and `CacheShape::scatter`.
unsafe impl Sync for SharedOutput {}

#[cfg(test)]
mod tests;
