//! Attention of new tokens over a KV cache, written to and read from in place: only positions that are written are ever touched.
#![expect(unsafe_code, reason = "the cache and the output are shared by threads")]

mod rotary;

use std::cell::RefCell;

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::{LANES, Lanes};
use crate::linear::dot_products;

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

/// Keys and values, each `[rows, kv_heads, capacity, head_dim]`.
#[derive(Debug)]
pub struct Cache<'a> {
    /// Keys, rotated.
    pub keys: &'a mut [f32],
    /// Values.
    pub values: &'a mut [f32],
    /// Positions in a row.
    pub capacity: usize,
}

/// Grouped-query attention: `heads` queries share `kv_heads` keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Angles by position.
    pub rotary: &'a RotaryTable,
    /// `[tokens, heads, head_dim]`, not rotated.
    pub q: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`, not rotated.
    pub k: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`.
    pub v: &'a [f32],
}

impl Attention<'_> {
    /// Rotates and writes the keys and values of `spans`, then attends each token to its sequence up to itself. `out`:
    /// `[tokens, heads, head_dim]`; tokens of other spans keep what is there.
    ///
    /// # Panics
    /// When a span lies outside the batch, the cache or the table of angles, or lengths do not agree.
    pub fn run(&self, machine: &Machine, spans: &[Span], cache: Cache<'_>, out: &mut [f32]) {
        self.check(spans, &cache, out);
        let shared = Shared {
            attention: self,
            keys: cache.keys.as_mut_ptr(),
            values: cache.values.as_mut_ptr(),
            capacity: cache.capacity,
            out: out.as_mut_ptr(),
        };
        for span in spans {
            for index in 0..span.len {
                shared.write(span, index);
            }
        }
        let tokens: Vec<(Span, usize)> = spans
            .iter()
            .flat_map(|span| (0..span.len).map(|index| (*span, index)))
            .collect();
        machine.pool.run(tokens.len() * self.kv_heads, &|task| {
            let (span, index) = &tokens[task / self.kv_heads];
            SCRATCH.with_borrow_mut(|scratch| {
                let head = task % self.kv_heads;
                attend_head(
                    machine.instructions,
                    &shared,
                    Query {
                        span,
                        index: *index,
                        head,
                    },
                    scratch,
                );
            });
        });
    }

    fn check(&self, spans: &[Span], cache: &Cache<'_>, out: &[f32]) {
        let tokens = self.q.len() / (self.heads * self.head_dim);
        let row = self.kv_heads * cache.capacity * self.head_dim;
        assert!(self.heads.is_multiple_of(self.kv_heads));
        assert!(self.q.len() == tokens * self.heads * self.head_dim && out.len() == self.q.len());
        assert!(self.k.len() == tokens * self.kv_heads * self.head_dim && self.v.len() == self.k.len());
        assert!(cache.keys.len() == cache.values.len() && cache.keys.len().is_multiple_of(row));
        assert!(self.rotary.head_dim() == self.head_dim);
        for span in spans {
            assert!(span.offset + span.len <= tokens, "{span:?} is outside the batch");
            assert!(
                (span.row + 1) * row <= cache.keys.len(),
                "{span:?} is outside the cache"
            );
            assert!(span.start + span.len <= cache.capacity, "{span:?} is longer than a row");
            assert!(
                span.start + span.len <= self.rotary.positions(),
                "{span:?} has no angles"
            );
        }
        let mut rows: Vec<_> = spans.iter().map(|span| span.row).collect();
        rows.sort_unstable();
        assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "two spans share a row");
    }
}

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

/// What tasks share. Writing to the cache is over before they begin; each writes heads of its own to the output.
struct Shared<'a> {
    attention: &'a Attention<'a>,
    keys: *mut f32,
    values: *mut f32,
    capacity: usize,
    out: *mut f32,
}

// SAFETY: see above; `Attention::check` made sure that everything lies inside.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    fn place(&self, row: usize, head: usize, position: usize) -> usize {
        ((row * self.attention.kv_heads + head) * self.capacity + position) * self.attention.head_dim
    }

    fn write(&self, span: &Span, index: usize) {
        let Attention {
            kv_heads,
            head_dim,
            rotary,
            k,
            v,
            ..
        } = *self.attention;
        let position = span.start + index;
        for head in 0..kv_heads {
            let source = ((span.offset + index) * kv_heads + head) * head_dim;
            let target = self.place(span.row, head, position);
            // SAFETY: the place lies inside the cache, and nobody else uses it before the tasks begin.
            let (key, value) = unsafe {
                let key = std::slice::from_raw_parts_mut(self.keys.add(target), head_dim);
                (key, std::slice::from_raw_parts_mut(self.values.add(target), head_dim))
            };
            rotary.rotate(position, &k[source..source + head_dim], key);
            value.copy_from_slice(&v[source..source + head_dim]);
        }
    }

    /// The first `count` positions of a head in one of the two halves of the cache.
    fn positions(&self, half: *mut f32, span: &Span, head: usize, count: usize) -> &[f32] {
        let start = self.place(span.row, head, 0);
        // SAFETY: `count` positions lie inside the row, are written, and nobody writes them while tasks run.
        unsafe { std::slice::from_raw_parts(half.add(start), count * self.attention.head_dim) }
    }
}

/// One token's queries that share the keys and values of `head`.
#[derive(Clone, Copy)]
struct Query<'a> {
    span: &'a Span,
    /// Of the token in its span.
    index: usize,
    head: usize,
}

dispatched! { fn attend_head = attend(shared: &Shared<'_>, query: Query<'_>, scratch: &mut Scratch) }

#[inline(always)]
fn attend<S: Lanes>(shared: &Shared<'_>, query: Query<'_>, scratch: &mut Scratch) {
    let Query { span, index, head } = query;
    let Attention {
        heads,
        kv_heads,
        head_dim,
        rotary,
        q,
        ..
    } = *shared.attention;
    let group = heads / kv_heads;
    let token = span.offset + index;
    let position = span.start + index;
    let count = position + 1;
    let padded = count.next_multiple_of(LANES);
    let Scratch { queries, weights } = scratch;
    queries.resize(group * head_dim, 0.0);
    weights.clear();
    weights.resize(group * padded, 0.0);
    let first = (token * heads + head * group) * head_dim;
    #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2^24 elements")]
    let scale = (head_dim as f32).sqrt().recip();
    for (query, rotated) in q[first..]
        .chunks_exact(head_dim)
        .zip(queries.chunks_exact_mut(head_dim))
    {
        rotary.rotate(position, query, rotated);
        rotated.iter_mut().for_each(|value| *value *= scale);
    }
    let keys = shared.positions(shared.keys, span, head, count);
    let values = shared.positions(shared.values, span, head, count);
    // SAFETY: this task alone writes these heads of this token.
    let out = unsafe { std::slice::from_raw_parts_mut(shared.out.add(first), group * head_dim) };
    let rows = queries.chunks_exact(head_dim).zip(weights.chunks_exact_mut(padded));
    for ((query, weights), out) in rows.zip(out.chunks_exact_mut(head_dim)) {
        scores::<S>(query, keys, &mut weights[..count]);
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
        let [sums] = dot_products::<S, 1, WIDTH>([query], rows);
        *block = sums;
    }
    for score in rest {
        let row = keys.next().unwrap_or(&[]);
        let [[sum]] = dot_products::<S, 1, 1>([query], [row]);
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
