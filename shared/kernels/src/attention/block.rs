//! What one thread attends at a time: some tokens of a sequence with the queries that share one head of keys.
//!
//! Every query is computed as it would be alone: its scores, their exponentials, and the sum of values position by position. What is
//! shared is only when the cache is read.

use std::cell::RefCell;
use std::ops::Range;

use super::{Attention, SharedOutput, Span};
use crate::instructions::dispatched;
use crate::lanes::Lanes;

/// Keys whose products with a query are summed together.
const KEYS: usize = 8;

/// Positions whose values stay in the first-level cache while all queries read them.
const POSITIONS: usize = 64;

/// Tokens `tokens` of `span`, and a head of keys and values.
pub(super) struct Block<'a> {
    pub(super) attention: &'a Attention<'a>,
    pub(super) span: Span,
    pub(super) tokens: Range<usize>,
    pub(super) head: usize,
}

impl Block<'_> {
    fn group(&self) -> usize {
        self.attention.heads / self.attention.cache.kv_heads
    }

    /// The positions that a token sees.
    fn seen(&self, token: usize) -> Range<usize> {
        let end = self.span.start + token + 1;
        end.saturating_sub(self.attention.window.unwrap_or(end))..end
    }

    /// The positions that any of them sees.
    fn all_seen(&self) -> Range<usize> {
        self.seen(self.tokens.start).start..self.seen(self.tokens.end - 1).end
    }

    /// What lies at `positions` of the cache.
    fn past<'a>(&self, cache: &'a [f32], positions: Range<usize>) -> &'a [f32] {
        let shape = self.attention.cache;
        &cache[shape.place(self.span.row, self.head, positions.start)..][..positions.len() * shape.head_dim]
    }

    /// Where a token's queries lie, and its results.
    fn elements(&self, token: usize) -> Range<usize> {
        let width = self.group() * self.attention.cache.head_dim;
        let first = (self.span.offset + token) * self.attention.cache.kv_heads + self.head;
        first * width..(first + 1) * width
    }
}

/// What a block is computed in; kept by its thread.
#[derive(Debug, Default)]
struct Scratch {
    /// `[queries, head_dim]`: prepared and scaled.
    queries: Vec<f32>,
    /// `[queries, positions]`, with room for whole vectors.
    weights: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn attend_block(instructions: crate::Instructions, block: &Block<'_>, out: &SharedOutput) {
    SCRATCH.with_borrow_mut(|scratch| attend_with(instructions, block, scratch, out));
}

dispatched! { fn attend_with = attend(block: &Block<'_>, scratch: &mut Scratch, out: &SharedOutput) }

#[inline(always)]
fn attend<S: Lanes>(block: &Block<'_>, scratch: &mut Scratch, out: &SharedOutput) {
    let (group, seen) = (block.group(), block.all_seen());
    let stride = seen.len() + S::LANES;
    let queries = block.tokens.len() * group;
    scratch.queries.resize(queries * block.attention.cache.head_dim, 0.0);
    if scratch.weights.len() < queries * stride {
        scratch.weights.resize(queries * stride, 0.0);
    }
    prepare::<S>(block, &mut scratch.queries);
    scores::<S>(block, scratch, stride);
    for (token, rows) in block
        .tokens
        .clone()
        .zip(scratch.weights.chunks_exact_mut(group * stride))
    {
        let own = block.seen(token);
        // SAFETY: no two blocks have the same head of the same token, and every token lies within the output.
        let out = unsafe { out.elements(block.elements(token)) };
        let heads = out.chunks_exact_mut(out.len() / group);
        for (weights, out) in rows.chunks_exact_mut(stride).zip(heads) {
            let weights = &mut weights[own.start - seen.start..];
            let sum = exponentials::<S>(weights, own.len());
            // Kept behind the weights until the sums are made.
            weights[own.len()] = sum.recip();
            out.fill(0.0);
        }
    }
    for start in seen.clone().step_by(POSITIONS) {
        let near = start..seen.end.min(start + POSITIONS);
        for (token, rows) in block.tokens.clone().zip(scratch.weights.chunks_exact(group * stride)) {
            let own = block.seen(token);
            let both = near.start.max(own.start)..near.end.min(own.end);
            if both.is_empty() {
                continue;
            }
            let values = block.past(block.attention.values, both.clone());
            // SAFETY: as above.
            let out = unsafe { out.elements(block.elements(token)) };
            let heads = out.chunks_exact_mut(out.len() / group);
            for (weights, out) in rows.chunks_exact(stride).zip(heads) {
                add_weighted::<S>(&weights[both.start - seen.start..both.end - seen.start], values, out);
                if both.end == own.end {
                    out.iter_mut().for_each(|value| *value *= weights[own.end - seen.start]);
                }
            }
        }
    }
}

#[inline(always)]
fn prepare<S: Lanes>(block: &Block<'_>, queries: &mut [f32]) {
    let attention = block.attention;
    let head_dim = attention.cache.head_dim;
    let mut rows = queries.chunks_exact_mut(head_dim);
    for token in block.tokens.clone() {
        let heads = attention.q.token(block.span.offset + token, attention.heads * head_dim);
        let own = &heads[block.head * block.group() * head_dim..][..block.group() * head_dim];
        for (head, row) in own.chunks_exact(head_dim).zip(&mut rows) {
            attention.preparation.prepare::<S>(block.span.start + token, head, row);
            row.iter_mut().for_each(|value| *value *= attention.scale);
        }
    }
}

/// Writes the product of each query with each key that its token sees; some beside them, which nobody reads, get theirs too.
#[inline(always)]
fn scores<S: Lanes>(block: &Block<'_>, scratch: &mut Scratch, stride: usize) {
    let (group, seen) = (block.group(), block.all_seen());
    let head_dim = block.attention.cache.head_dim;
    for start in seen.clone().step_by(KEYS) {
        let positions = start..seen.end.min(start + KEYS);
        let keys = block.past(block.attention.keys, positions.clone());
        for (index, token) in block.tokens.clone().enumerate() {
            let own = block.seen(token);
            if own.start >= positions.end || own.end <= positions.start {
                continue;
            }
            for query in index * group..(index + 1) * group {
                let target = &mut scratch.weights[query * stride + start - seen.start..][..positions.len()];
                let query = &scratch.queries[query * head_dim..(query + 1) * head_dim];
                match positions.len() {
                    KEYS => target.copy_from_slice(&products::<S>(query, keys)),
                    _ => {
                        for (score, key) in target.iter_mut().zip(keys.chunks_exact(head_dim)) {
                            *score = product::<S>(query, key);
                        }
                    }
                }
            }
        }
    }
}

/// The products of a query with eight keys, `[8, head_dim]`.
#[inline(always)]
fn products<S: Lanes>(query: &[f32], keys: &[f32]) -> [f32; KEYS] {
    let width = query.len();
    assert!(keys.len() == KEYS * width);
    let whole = width - width % S::LANES;
    let mut sums = [S::splat(0.0); KEYS];
    let mut at = 0;
    while at < whole {
        // SAFETY: `at + LANES` is within the query and within each key.
        unsafe {
            let factor = S::load(query.as_ptr().add(at));
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(keys.as_ptr().add(index * width + at)).mul_add(factor, *sum);
            }
        }
        at += S::LANES;
    }
    let mut results = S::sums(sums);
    for (result, key) in results.iter_mut().zip(keys.chunks_exact(width)) {
        *result = add_rest(*result, &query[whole..], &key[whole..]);
    }
    results
}

/// One of [`products`].
#[inline(always)]
fn product<S: Lanes>(query: &[f32], key: &[f32]) -> f32 {
    let whole = query.len() - query.len() % S::LANES;
    let mut sum = S::splat(0.0);
    for at in (0..whole).step_by(S::LANES) {
        sum = S::from_slice(&key[at..]).mul_add(S::from_slice(&query[at..]), sum);
    }
    add_rest(sum.sum(), &query[whole..], &key[whole..])
}

#[inline(always)]
fn add_rest(sum: f32, left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).fold(sum, |sum, (a, b)| sum + a * b)
}

/// Turns the first `count` scores into exponentials of their distance to the largest one and returns their sum. Up to a vector behind
/// them is overwritten with zeros.
#[inline(always)]
fn exponentials<S: Lanes>(scores: &mut [f32], count: usize) -> f32 {
    let max = maximum::<S>(&scores[..count]);
    let padded = count.next_multiple_of(S::LANES);
    for lanes in scores[..padded].chunks_exact_mut(S::LANES) {
        S::from_slice(lanes).sub(S::splat(max)).exp().write_to(lanes);
    }
    scores[count..padded].fill(0.0);
    let mut sum = S::splat(0.0);
    for lanes in scores[..padded].chunks_exact(S::LANES) {
        sum = sum.add(S::from_slice(lanes));
    }
    sum.sum()
}

/// The largest value; NaN or not where one is NaN: the sums are NaN then.
#[inline(always)]
fn maximum<S: Lanes>(scores: &[f32]) -> f32 {
    let mut most = S::splat(f32::NEG_INFINITY);
    let chunks = scores.chunks_exact(S::LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for lanes in chunks {
        most = S::from_slice(lanes).max(most);
    }
    let mut values = [f32::NEG_INFINITY; crate::lanes::MOST_LANES];
    most.write_to(&mut values);
    values.into_iter().fold(rest, f32::max)
}

/// Adds `weights` times `values`, `[positions, width]`, to `out`, `[width]`, position by position.
#[inline(always)]
fn add_weighted<S: Lanes>(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let width = out.len();
    let mut at = 0;
    while at + 8 * S::LANES <= width {
        columns::<S, 8>(weights, &values[at..], width, &mut out[at..]);
        at += 8 * S::LANES;
    }
    while at + 4 * S::LANES <= width {
        columns::<S, 4>(weights, &values[at..], width, &mut out[at..]);
        at += 4 * S::LANES;
    }
    while at + S::LANES <= width {
        columns::<S, 1>(weights, &values[at..], width, &mut out[at..]);
        at += S::LANES;
    }
    for column in at..width {
        let values = values[column..].iter().step_by(width);
        out[column] = weights
            .iter()
            .zip(values)
            .fold(out[column], |sum, (weight, value)| sum + weight * value);
    }
}

/// `VECTORS` vectors of columns.
#[inline(always)]
fn columns<S: Lanes, const VECTORS: usize>(weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
    assert!(out.len() >= VECTORS * S::LANES && values.len() >= (weights.len() - 1) * width + VECTORS * S::LANES);
    let mut sums = [S::splat(0.0); VECTORS];
    for (index, sum) in sums.iter_mut().enumerate() {
        // SAFETY: within `out`, as asserted above.
        *sum = unsafe { S::load(out.as_ptr().add(index * S::LANES)) };
    }
    for (position, weight) in weights.iter().enumerate() {
        let weight = S::splat(*weight);
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: within `values`, as asserted above.
            let value = unsafe { S::load(values.as_ptr().add(position * width + index * S::LANES)) };
            *sum = value.mul_add(weight, *sum);
        }
    }
    for (index, sum) in sums.iter().enumerate() {
        // SAFETY: within `out`, as asserted above.
        unsafe { sum.store(out.as_mut_ptr().add(index * S::LANES)) };
    }
}
