//! Attention of new tokens over a KV cache, written to and read from in place: only positions that are written are ever touched.
#![expect(unsafe_code, reason = "vector loads and stores, one output shared by threads")]

mod head;
mod rotary;

use std::cell::RefCell;

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::{LANES, Lanes};
use crate::profile::{Part, measure};
use crate::tile::{Ahead, dot_products};

pub use head::{HeadNorm, Preparation};
pub use rotary::RotaryTable;

/// Tokens of one sequence: `len` from `offset` on in the batch, at positions from `start` on, in row `row` of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Row of the cache.
    pub row: usize,
    /// Position of the first token.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// First token in the batch.
    pub offset: usize,
}

/// What tokens bring, a part of each row of an array: `width` elements from `offset` on, rows `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct TokenPart<'a> {
    /// `[tokens, stride]`.
    pub values: &'a [f32],
    /// Where the part begins in a row.
    pub offset: usize,
    /// Length of a row.
    pub stride: usize,
}

impl<'a> TokenPart<'a> {
    fn tokens(&self) -> usize {
        self.values.len() / self.stride
    }

    fn token(&self, index: usize, width: usize) -> &'a [f32] {
        &self.values[index * self.stride..(index + 1) * self.stride][self.offset..self.offset + width]
    }
}

/// A cache of keys or of values: `[rows, kv_heads, capacity, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Positions in a row.
    pub capacity: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl CacheShape {
    fn place(&self, row: usize, head: usize, position: usize) -> usize {
        ((row * self.kv_heads + head) * self.capacity + position) * self.head_dim
    }

    fn check(&self, spans: &[Span], tokens: usize, cache: &[f32]) {
        let row = self.place(1, 0, 0);
        assert!(cache.len().is_multiple_of(row));
        for span in spans {
            assert!(span.offset + span.len <= tokens, "{span:?} is outside the batch");
            assert!((span.row + 1) * row <= cache.len(), "{span:?} is outside the cache");
            assert!(span.start + span.len <= self.capacity, "{span:?} is longer than a row");
        }
    }

    /// Calls `write` with the position, the vector and the place of every head of every token of `spans`.
    fn scatter(
        &self,
        spans: &[Span],
        new: TokenPart<'_>,
        cache: &mut [f32],
        write: impl Fn(usize, &[f32], &mut [f32]),
    ) {
        self.check(spans, new.tokens(), cache);
        for span in spans {
            for index in 0..span.len {
                let token = new.token(span.offset + index, self.kv_heads * self.head_dim);
                for (head, vector) in token.chunks_exact(self.head_dim).enumerate() {
                    let place = self.place(span.row, head, span.start + index);
                    write(span.start + index, vector, &mut cache[place..place + self.head_dim]);
                }
            }
        }
    }
}

/// New keys or values, `[tokens, kv_heads, head_dim]`, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    /// Of the cache that is written.
    pub cache: CacheShape,
    /// Which tokens, and to which positions.
    pub spans: &'a [Span],
    /// What is written.
    pub new: TokenPart<'a>,
}

/// Prepares keys and writes them to their positions.
///
/// # Panics
/// When a span lies outside the batch, the cache or the table of angles.
pub fn write_keys(machine: &Machine, writing: Writing<'_>, preparation: Preparation<'_>, keys: &mut [f32]) {
    let _measure = measure(Part::KvWrite);
    preparation.check(writing.cache.head_dim);
    let Writing { cache, spans, new } = writing;
    cache.scatter(spans, new, keys, |position, key, place| {
        preparation.apply(machine.instructions, position, key, place)
    });
}

/// Writes values to their positions.
///
/// # Panics
/// When a span lies outside the batch or the cache.
pub fn write_values(writing: Writing<'_>, values: &mut [f32]) {
    let _measure = measure(Part::KvWrite);
    let Writing { cache, spans, new } = writing;
    cache.scatter(spans, new, values, |_, value, place| place.copy_from_slice(value));
}

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
        let CacheShape { kv_heads, head_dim, .. } = self.cache;
        let count = self.q.tokens();
        assert!(self.heads.is_multiple_of(kv_heads) && self.window != Some(0));
        self.preparation.check(head_dim);
        assert!(out.len() == count * self.heads * head_dim);
        assert!(self.keys.len() == self.values.len());
        self.cache.check(spans, count, self.keys);
        let tokens: Vec<(Span, usize)> = spans
            .iter()
            .flat_map(|span| (0..span.len).map(|index| (*span, index)))
            .collect();
        let mut offsets: Vec<_> = tokens.iter().map(|(span, index)| span.offset + index).collect();
        offsets.sort_unstable();
        assert!(
            offsets.windows(2).all(|pair| pair[0] != pair[1]),
            "two spans share a token"
        );
        let out = SharedOutput(out.as_mut_ptr());
        machine.pool.run(tokens.len() * kv_heads, &|task| {
            let (span, index) = &tokens[task / kv_heads];
            let query = Query {
                attention: self,
                row: span.row,
                token: span.offset + index,
                position: span.start + index,
                head: task % kv_heads,
            };
            let group = query.elements();
            // SAFETY: no two tasks have the same head of the same token, and every token lies within `out`.
            let out = unsafe { std::slice::from_raw_parts_mut(out.from(group.start), group.len()) };
            SCRATCH.with_borrow_mut(|scratch| attend_head(machine.instructions, query, scratch, out));
        });
    }
}

/// Written by several threads, each to heads of its own.
struct SharedOutput(*mut f32);

impl SharedOutput {
    fn from(&self, start: usize) -> *mut f32 {
        // SAFETY: `Attention::run` starts within the output.
        unsafe { self.0.add(start) }
    }
}

// SAFETY: threads write disjoint ranges, see `Attention::run`.
unsafe impl Sync for SharedOutput {}

/// What a task works in; kept by its thread.
#[derive(Debug, Default)]
struct Scratch {
    /// `[group, head_dim]`: rotated and scaled.
    queries: Vec<f32>,
    /// `[group, positions]`, padded to whole lanes.
    weights: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One token's queries that share the keys and values of `head`.
#[derive(Clone, Copy)]
struct Query<'a> {
    attention: &'a Attention<'a>,
    row: usize,
    token: usize,
    position: usize,
    head: usize,
}

impl<'a> Query<'a> {
    /// Where these heads lie in the output.
    fn elements(&self) -> std::ops::Range<usize> {
        let group = self.attention.heads / self.attention.cache.kv_heads;
        let head_dim = self.attention.cache.head_dim;
        let first = (self.token * self.attention.heads + self.head * group) * head_dim;
        first..first + group * head_dim
    }

    /// The positions that the token sees.
    fn seen(&self) -> std::ops::Range<usize> {
        let end = self.position + 1;
        end.saturating_sub(self.attention.window.unwrap_or(end))..end
    }

    /// What lies at those positions.
    fn past(&self, cache: &'a [f32]) -> &'a [f32] {
        let shape = self.attention.cache;
        let seen = self.seen();
        &cache[shape.place(self.row, self.head, seen.start)..][..seen.len() * shape.head_dim]
    }
}

dispatched! { fn attend_head = attend(query: Query<'_>, scratch: &mut Scratch, out: &mut [f32]) }

#[inline(always)]
fn attend<S: Lanes>(query: Query<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    let Attention {
        heads,
        preparation,
        scale,
        q,
        cache,
        keys,
        values,
        ..
    } = *query.attention;
    let head_dim = cache.head_dim;
    let count = query.seen().len();
    let padded = count.next_multiple_of(LANES);
    let group = out.len() / head_dim;
    let Scratch { queries, weights } = scratch;
    queries.resize(group * head_dim, 0.0);
    weights.clear();
    weights.resize(group * padded, 0.0);
    let rotated = queries.chunks_exact_mut(head_dim);
    let heads = &q.token(query.token, heads * head_dim)[query.head * out.len()..][..out.len()];
    for (head, rotated) in heads.chunks_exact(head_dim).zip(rotated) {
        preparation.prepare::<S>(query.position, head, rotated);
        rotated.iter_mut().for_each(|value| *value *= scale);
    }
    let (keys, values) = (query.past(keys), query.past(values));
    let rows = queries.chunks_exact(head_dim).zip(weights.chunks_exact_mut(padded));
    for ((head, weights), out) in rows.zip(out.chunks_exact_mut(head_dim)) {
        scores::<S>(head, keys, &mut weights[..count]);
        let sum = exponentials::<S>(weights, count);
        weighted_sum::<S>(&weights[..count], values, sum.recip(), out);
    }
}

#[inline(always)]
fn scores<S: Lanes>(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    const WIDTH: usize = 8;
    let (blocks, rest) = scores.as_chunks_mut::<WIDTH>();
    let mut keys = keys.chunks_exact(query.len());
    for block in blocks {
        let rows: [&[f32]; WIDTH] = std::array::from_fn(|_| keys.next().unwrap_or(&[]));
        let [sums] = dot_products::<S, 1, WIDTH, false>([query], rows, Ahead::default());
        *block = sums;
    }
    for score in rest {
        let row = keys.next().unwrap_or(&[]);
        let [[sum]] = dot_products::<S, 1, 1, false>([query], [row], Ahead::default());
        *score = sum;
    }
}

/// Turns scores into exponentials of their distance to the largest one and returns their sum. What pads the last lanes counts for
/// nothing.
#[inline(always)]
fn exponentials<S: Lanes>(scores: &mut [f32], count: usize) -> f32 {
    let max = scores[..count].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (lanes, _) = scores.as_chunks_mut::<LANES>();
    for lane in lanes.iter_mut() {
        // SAFETY: a chunk holds eight values.
        unsafe { S::load(lane.as_ptr()).sub(S::splat(max)).exp().store(lane.as_mut_ptr()) };
    }
    scores[count..].fill(0.0);
    let (lanes, _) = scores.as_chunks::<LANES>();
    let mut sum = S::splat(0.0);
    for lane in lanes {
        // SAFETY: as above.
        sum = sum.add(unsafe { S::load(lane.as_ptr()) });
    }
    sum.sum()
}

/// `values`: `[positions, width]`; `out`: `[width]`.
#[inline(always)]
fn weighted_sum<S: Lanes>(weights: &[f32], values: &[f32], scale: f32, out: &mut [f32]) {
    let width = out.len();
    let mut at = 0;
    while at + 8 * LANES <= width {
        columns::<S, 8>(weights, &values[at..], scale, width, &mut out[at..]);
        at += 8 * LANES;
    }
    while at + LANES <= width {
        columns::<S, 1>(weights, &values[at..], scale, width, &mut out[at..]);
        at += LANES;
    }
    for column in at..width {
        let values = values[column..].iter().step_by(width);
        let sum = weights
            .iter()
            .zip(values)
            .fold(0.0, |sum, (weight, value)| sum + weight * value);
        out[column] = sum * scale;
    }
}

/// `VECTORS` times eight columns.
#[inline(always)]
fn columns<S: Lanes, const VECTORS: usize>(weights: &[f32], values: &[f32], scale: f32, width: usize, out: &mut [f32]) {
    assert!(out.len() >= VECTORS * LANES && values.len() >= (weights.len() - 1) * width + VECTORS * LANES);
    let mut sums = [S::splat(0.0); VECTORS];
    for (position, weight) in weights.iter().enumerate() {
        let weight = S::splat(*weight);
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: within `values`, as asserted above.
            let value = unsafe { S::load(values.as_ptr().add(position * width + index * LANES)) };
            *sum = weight.mul_add(value, *sum);
        }
    }
    for (index, sum) in sums.iter().enumerate() {
        // SAFETY: within `out`, as asserted above.
        unsafe { sum.mul(S::splat(scale)).store(out.as_mut_ptr().add(index * LANES)) };
    }
}

#[cfg(test)]
mod tests;
