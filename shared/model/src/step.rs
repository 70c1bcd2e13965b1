//! How the tokens of one step lie in the flat batch, and which of them attend to which slot.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use mlx_rs::Array;

use crate::layers::dim;

/// Where one entry of a plan lies: tokens `offset..offset + len` of the flat batch, at positions `start..start + len` of the
/// sequence whose KV is row `row` of the arena of `bucket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) bucket: usize,
    pub(crate) row: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) offset: usize,
}

impl Span {
    /// One past the last position written.
    pub(crate) fn end(&self) -> usize {
        self.start + self.len
    }
}

/// Single-token spans of one bucket, computed together.
#[derive(Debug)]
pub(crate) struct Decodes {
    pub(crate) bucket: usize,
    /// `[n]` int32: the row of each.
    pub(crate) rows: Array,
    /// `[n]` int32: the position of each.
    pub(crate) positions: Array,
    /// `[n]` int32: its token in the flat batch.
    pub(crate) offsets: Array,
    /// `[arena rows]` int32: for every row of the arena the token of the flat batch that attends to it; rows of others repeat
    /// token 0, whose result there is dropped.
    pub(crate) token_of_row: Array,
    /// By row of the arena: one past the last position that its token sees.
    ends: Vec<usize>,
    capacity: usize,
    /// What was asked for, by window.
    masks: RefCell<Vec<(Option<usize>, Array)>>,
}

/// One step's layout. Independent of the layer: each part is built once, when a layer first asks for it.
#[derive(Debug)]
pub(crate) struct StepLayout {
    /// In the flat batch's order.
    spans: Vec<Span>,
    /// By bucket.
    arenas: Vec<ArenaShape>,
    positions: OnceCell<Array>,
    grouped: OnceCell<Grouped>,
    grouped_singles: OnceCell<Grouped>,
    by_bucket: OnceCell<Vec<BucketSpans>>,
}

/// The spans of one bucket as kernels want them.
#[derive(Debug)]
pub(crate) struct BucketSpans {
    pub(crate) bucket: usize,
    pub(crate) spans: Arc<[kr_kernels::Span]>,
}

/// The layout for MLX's own operations: which tokens are computed together.
#[derive(Debug)]
pub(crate) struct Grouped {
    /// Computed together, where there are enough of one bucket.
    pub(crate) decodes: Vec<Decodes>,
    /// Computed one by one.
    pub(crate) spans: Vec<Span>,
    /// `[tokens]` int32: restores the flat batch's order from decodes followed by spans; `None` where it is that order already.
    pub(crate) order: Option<Array>,
}

/// What an arena of one bucket has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArenaShape {
    pub(crate) rows: usize,
    pub(crate) capacity: usize,
}

impl StepLayout {
    /// `arenas` is indexed by bucket.
    pub(crate) fn new(spans: Vec<Span>, arenas: Vec<ArenaShape>) -> Self {
        Self {
            spans,
            arenas,
            positions: OnceCell::new(),
            grouped: OnceCell::new(),
            grouped_singles: OnceCell::new(),
            by_bucket: OnceCell::new(),
        }
    }

    /// `[tokens]` int32: the position of each token.
    pub(crate) fn positions(&self) -> &Array {
        self.positions.get_or_init(|| {
            let positions = self.spans.iter().flat_map(|span| (span.start..span.end()).map(dim));
            indices(positions.collect())
        })
    }

    pub(crate) fn grouped(&self) -> &Grouped {
        self.grouped
            .get_or_init(|| Grouped::new(&self.spans, &self.arenas, Together::Many))
    }

    /// The same with all single tokens of a bucket together, be they many or one.
    pub(crate) fn grouped_singles(&self) -> &Grouped {
        self.grouped_singles
            .get_or_init(|| Grouped::new(&self.spans, &self.arenas, Together::All))
    }

    /// The buckets that have spans, with them.
    pub(crate) fn by_bucket(&self) -> &[BucketSpans] {
        self.by_bucket.get_or_init(|| {
            let spans = |bucket| self.spans.iter().filter(move |span| span.bucket == bucket);
            (0..self.arenas.len())
                .map(|bucket| BucketSpans {
                    bucket,
                    spans: spans(bucket).map(kr_kernels::Span::from).collect(),
                })
                .filter(|bucket| !bucket.spans.is_empty())
                .collect()
        })
    }
}

impl From<&Span> for kr_kernels::Span {
    fn from(span: &Span) -> Self {
        Self {
            row: span.row,
            start: span.start,
            len: span.len,
            offset: span.offset,
        }
    }
}

/// Which single tokens of a bucket are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Together {
    /// Those of a bucket where enough of its rows have one.
    Many,
    All,
}

impl Grouped {
    fn new(all: &[Span], arenas: &[ArenaShape], together: Together) -> Self {
        let mut grouped: Vec<Vec<Span>> = vec![Vec::new(); arenas.len()];
        let mut spans = Vec::new();
        for span in all {
            match span.len {
                1 => grouped[span.bucket].push(*span),
                _ => spans.push(*span),
            }
        }
        let mut decodes = Vec::new();
        let mut computed = Vec::new();
        for (group, arena) in grouped.into_iter().zip(arenas) {
            let many = group.len() > 1 && group.len() * 4 >= arena.rows;
            if many || together == Together::All && !group.is_empty() {
                computed.extend(group.iter().map(|span| span.offset));
                decodes.push(Decodes::new(&group, *arena));
            } else {
                spans.extend(group);
            }
        }
        computed.extend(spans.iter().flat_map(|span| span.offset..span.offset + span.len));
        Self {
            decodes,
            spans,
            order: restoring_order(&computed),
        }
    }
}

impl Decodes {
    fn new(group: &[Span], arena: ArenaShape) -> Self {
        let mut token_of_row = vec![0; arena.rows];
        // A row that nobody asks for still sees its first position, so that its softmax has something to sum.
        let mut seen = vec![1; arena.rows];
        for span in group {
            token_of_row[span.row] = dim(span.offset);
            seen[span.row] = span.end();
        }
        let column = |value: fn(&Span) -> usize| indices(group.iter().map(|span| dim(value(span))).collect());
        Self {
            bucket: group.first().map_or(0, |span| span.bucket),
            rows: column(|span| span.row),
            positions: column(|span| span.start),
            offsets: column(|span| span.offset),
            token_of_row: indices(token_of_row),
            ends: seen,
            capacity: arena.capacity,
            masks: RefCell::default(),
        }
    }

    /// `[arena rows, 1, 1, capacity]` bool: what each row's token may see, of the last `window` positions where there is a window.
    pub(crate) fn visible(&self, window: Option<usize>) -> Array {
        let mut masks = self.masks.borrow_mut();
        if let Some((_, mask)) = masks.iter().find(|(known, _)| *known == window) {
            return mask.clone();
        }
        let row = |end: &usize| {
            let seen = end.saturating_sub(window.unwrap_or(*end))..*end;
            (0..self.capacity).map(move |position| seen.contains(&position))
        };
        let visible: Vec<bool> = self.ends.iter().flat_map(row).collect();
        let mask = Array::from_slice(&visible, &[dim(self.ends.len()), 1, 1, dim(self.capacity)]);
        masks.push((window, mask.clone()));
        mask
    }
}

/// The permutation that puts tokens computed in the order `computed` back to 0, 1, 2, …
fn restoring_order(computed: &[usize]) -> Option<Array> {
    if computed.is_sorted() {
        return None;
    }
    let mut inverse = vec![0; computed.len()];
    for (place, token) in computed.iter().enumerate() {
        inverse[*token] = dim(place);
    }
    Some(indices(inverse))
}

/// `[n]` int32.
pub(crate) fn indices(values: Vec<i32>) -> Array {
    Array::from_slice(&values, &[dim(values.len())])
}
