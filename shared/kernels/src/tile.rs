//! The products of all rows of activations with a few rows of weights: what one thread computes at a time.
#![expect(unsafe_code, reason = "inner loops over pointers")]

use crate::instructions::dispatched;
use crate::lanes::Lanes;
use crate::stored::{Matrix, Stored};

/// Rows of weights computed for all rows of `x` before the next ones, so that they come from memory once. A multiple of every block's
/// width below.
pub(crate) const TILE_OUTPUTS: usize = 24;

/// Bytes of a cache line.
const LINE: usize = 64;

/// `x`: `[rows, inputs]`; `weight`: `[outputs, inputs]` with at most [`TILE_OUTPUTS`] rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: Matrix<'a>,
    pub(crate) inputs: usize,
}

/// What is asked for ahead of its use: weights are read once a step, and their way from memory is what a product of few rows waits
/// for.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// Elements ahead.
    distance: usize,
    /// Lines are dealt to so many passes, a power of two.
    shares: usize,
    /// This pass's turn.
    share: usize,
}

dispatched! {
    /// Computes `x Wᵀ` into `out`: `[rows, TILE_OUTPUTS]`; columns behind the tile's own are left alone.
    pub(crate) fn tile_products = products(tile: Tile<'_>, out: &mut [f32])
}

#[inline(always)]
fn products<S: Lanes>(tile: Tile<'_>, out: &mut [f32]) {
    let Tile { x, weight, inputs } = tile;
    match weight {
        Matrix::Float32(weight) => Rows { x, weight, inputs }.products::<S>(out),
        Matrix::Bfloat16(weight) => Rows { x, weight, inputs }.products::<S>(out),
        Matrix::Float16(weight) => Rows { x, weight, inputs }.products::<S>(out),
    }
}

/// A tile over weights of one type.
#[derive(Clone, Copy)]
struct Rows<'a, W> {
    x: &'a [f32],
    weight: &'a [W],
    inputs: usize,
}

impl<W: Stored> Rows<'_, W> {
    #[inline(always)]
    fn products<S: Lanes>(self, out: &mut [f32]) {
        let rows = self.x.len() / self.inputs;
        // As many rows together as the registers hold sums of: 16 of them, or 32.
        let most = if S::LANES > 8 { 8 } else { 4 };
        // The next tile's lines are spread over the passes, so that memory is busy in all of them.
        let passes = rows.div_ceil(most);
        let shares = if passes.is_power_of_two() {
            passes
        } else {
            passes.next_power_of_two() / 2
        };
        let shares = shares.min(LINE / size_of::<W>());
        let (mut row, mut pass) = (0, 0);
        while row < rows {
            let ahead = (pass < shares).then_some(Ahead {
                distance: TILE_OUTPUTS * self.inputs,
                shares,
                share: pass,
            });
            row += match rows - row {
                8.. if S::LANES > 8 => self.block::<S, 8, 3>(row, ahead, out),
                4.. => self.block::<S, 4, 3>(row, ahead, out),
                3 => self.block::<S, 3, 3>(row, ahead, out),
                2 => self.block::<S, 2, 4>(row, ahead, out),
                _ => self.block::<S, 1, 8>(row, ahead, out),
            };
            pass += 1;
        }
    }

    /// `COUNT` rows from `row` on, `WIDTH` outputs at a time. Returns `COUNT`.
    #[inline(always)]
    fn block<S: Lanes, const COUNT: usize, const WIDTH: usize>(
        self,
        row: usize,
        ahead: Option<Ahead>,
        out: &mut [f32],
    ) -> usize {
        let left: [&[f32]; COUNT] = rows_from(self.x, self.inputs, row);
        let outputs = self.weight.len() / self.inputs;
        let mut column = 0;
        while column + WIDTH <= outputs {
            let right: [&[W]; WIDTH] = rows_from(self.weight, self.inputs, column);
            let sums = match ahead {
                Some(ahead) => dot_products::<S, W, COUNT, WIDTH, true>(left, right, ahead),
                None => dot_products::<S, W, COUNT, WIDTH, false>(left, right, NOT_AHEAD),
            };
            for (index, sums) in sums.iter().enumerate() {
                let place = (row + index) * TILE_OUTPUTS + column;
                out[place..place + WIDTH].copy_from_slice(sums);
            }
            column += WIDTH;
        }
        while column < outputs {
            let right: [&[W]; 1] = rows_from(self.weight, self.inputs, column);
            let sums = dot_products::<S, W, COUNT, 1, false>(left, right, NOT_AHEAD);
            for (index, [sum]) in sums.iter().enumerate() {
                out[(row + index) * TILE_OUTPUTS + column] = *sum;
            }
            column += 1;
        }
        COUNT
    }
}

const NOT_AHEAD: Ahead = Ahead {
    distance: 0,
    shares: 1,
    share: 0,
};

#[inline(always)]
fn rows_from<T, const COUNT: usize>(matrix: &[T], width: usize, first: usize) -> [&[T]; COUNT] {
    let mut rows = [&matrix[..0]; COUNT];
    for (row, elements) in rows.iter_mut().zip(matrix[first * width..].chunks_exact(width)) {
        *row = elements;
    }
    rows
}

/// Every dot product of a row of `left` with a row of `right`. All rows have the same length. With `PREFETCH`, what lies ahead of `right`
/// is asked for.
#[inline(always)]
fn dot_products<S: Lanes, W: Stored, const ROWS: usize, const WIDTH: usize, const PREFETCH: bool>(
    left: [&[f32]; ROWS],
    right: [&[W]; WIDTH],
    ahead: Ahead,
) -> [[f32; WIDTH]; ROWS] {
    let length = left[0].len();
    assert!(left.iter().all(|row| row.len() == length) && right.iter().all(|row| row.len() == length));
    let line = LINE / size_of::<W>();
    let whole = length - length % S::LANES;
    let mut sums = [[S::splat(0.0); WIDTH]; ROWS];
    let mut at = 0;
    while at < whole {
        if PREFETCH && at.is_multiple_of(line) && (at / line) & (ahead.shares - 1) == ahead.share {
            for row in right {
                S::prefetch(row.as_ptr().wrapping_add(at + ahead.distance));
            }
        }
        let mut factors = [S::splat(0.0); WIDTH];
        for (factor, row) in factors.iter_mut().zip(&right) {
            // SAFETY: `at + LANES <= length`, the length of every row.
            *factor = unsafe { W::load(row.as_ptr().add(at)) };
        }
        for (row, sums) in left.iter().zip(&mut sums) {
            // SAFETY: as above.
            let value = unsafe { S::load(row.as_ptr().add(at)) };
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum = value.mul_add(factor, *sum);
            }
        }
        at += S::LANES;
    }
    let mut results = lane_sums(&sums);
    if whole < length {
        for (left, results) in left.iter().zip(&mut results) {
            for (right, result) in right.iter().zip(results) {
                let rest = left[whole..].iter().zip(&right[whole..]);
                *result = rest.fold(*result, |sum, (a, b)| sum + a * b.value());
            }
        }
    }
    results
}

/// The sum of the lanes of each vector.
#[inline(always)]
fn lane_sums<S: Lanes, const ROWS: usize, const WIDTH: usize>(vectors: &[[S; WIDTH]; ROWS]) -> [[f32; WIDTH]; ROWS] {
    let mut results = [[0.0; WIDTH]; ROWS];
    let all = vectors.as_flattened();
    for (vectors, results) in all.chunks(8).zip(results.as_flattened_mut().chunks_mut(8)) {
        let mut eight = [S::splat(0.0); 8];
        for (place, vector) in eight.iter_mut().zip(vectors) {
            *place = *vector;
        }
        results.copy_from_slice(&S::sums(eight)[..results.len()]);
    }
    results
}
