//! Where keys and values lie, and how new ones get there.

use std::ops::Range;

use super::{Preparation, SharedOutput};
use crate::Machine;
use crate::profile::{Part, measure};

/// Elements that a thread takes at a time: fewer are not worth another one's help.
const ELEMENTS: usize = 1 << 13;

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
    pub(super) fn tokens(&self) -> usize {
        self.values.len() / self.stride
    }

    pub(super) fn token(&self, index: usize, width: usize) -> &'a [f32] {
        &self.values[index * self.stride..(index + 1) * self.stride][self.offset..self.offset + width]
    }
}

/// Writes one head of a token: its position, what it brings and where it goes.
type WriteHead<'a> = dyn Fn(usize, &[f32], &mut [f32]) + Sync + 'a;

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
    pub(super) fn place(&self, row: usize, head: usize, position: usize) -> usize {
        ((row * self.kv_heads + head) * self.capacity + position) * self.head_dim
    }

    pub(super) fn check(&self, spans: &[Span], tokens: usize, cache: &[f32]) {
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
        machine: &Machine,
        (spans, new): (&[Span], TokenPart<'_>),
        cache: &mut [f32],
        write: &WriteHead<'_>,
    ) {
        self.check(spans, new.tokens(), cache);
        disjoint(spans.iter().map(|span| (span.row, span.start..span.start + span.len)));
        let width = self.kv_heads * self.head_dim;
        let tokens = (ELEMENTS / width.max(1)).max(1);
        let pieces: Vec<_> = pieces(spans, tokens).collect();
        let cache = SharedOutput(cache.as_mut_ptr());
        machine.pool.run(pieces.len(), &|piece| {
            let (span, indices) = &pieces[piece];
            for index in indices.clone() {
                let token = new.token(span.offset + index, width);
                for (head, vector) in token.chunks_exact(self.head_dim).enumerate() {
                    let place = self.place(span.row, head, span.start + index);
                    // SAFETY: within the cache, as checked, and no two tokens have a position of a row in common.
                    let place = unsafe { cache.elements(place..place + self.head_dim) };
                    write(span.start + index, vector, place);
                }
            }
        });
    }
}

/// Cuts spans into pieces of some tokens.
pub(super) fn pieces(spans: &[Span], tokens: usize) -> impl Iterator<Item = (&Span, Range<usize>)> {
    spans.iter().flat_map(move |span| {
        let firsts = (0..span.len).step_by(tokens);
        firsts.map(move |first| (span, first..span.len.min(first + tokens)))
    })
}

/// # Panics
/// When two ranges under the same key overlap.
pub(super) fn disjoint(ranges: impl Iterator<Item = (usize, Range<usize>)>) {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable_by_key(|(key, range)| (*key, range.start));
    let apart = |pair: &[(usize, Range<usize>)]| pair[0].0 != pair[1].0 || pair[0].1.end <= pair[1].1.start;
    assert!(ranges.windows(2).all(apart), "two spans share a token or a place");
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
    cache.scatter(machine, (spans, new), keys, &|position, key, place| {
        preparation.apply(machine.instructions, position, key, place)
    });
}

/// Writes values to their positions.
///
/// # Panics
/// When a span lies outside the batch or the cache.
pub fn write_values(machine: &Machine, writing: Writing<'_>, values: &mut [f32]) {
    let _measure = measure(Part::KvWrite);
    let Writing { cache, spans, new } = writing;
    cache.scatter(machine, (spans, new), values, &|_, value, place| {
        place.copy_from_slice(value)
    });
}
