//! The products of all rows of activations with a few rows of weights: what one thread computes at a time.
#![expect(unsafe_code, reason = "inner loops over pointers")]

use crate::instructions::dispatched;
use crate::lanes::{LANES, Lanes};

/// Rows of weights computed for all rows of `x` before the next ones: they stay in the first-level cache. A multiple of every
/// block's width below.
pub(crate) const TILE_OUTPUTS: usize = 24;

/// Elements of a cache line.
const LINE: usize = 16;

/// Rows of `x` computed together.
const ROWS: usize = 4;

/// `x`: `[rows, inputs]`; `weight`: `[outputs, inputs]` with at most [`TILE_OUTPUTS`] rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) inputs: usize,
}

/// What is asked for ahead of its use: weights are read once a step, and their way from memory is what a product of few rows waits
/// for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ahead {
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
    let rows = tile.x.len() / tile.inputs;
    // The next tile's lines are spread over the passes, so that memory is busy in all of them.
    let passes = rows.div_ceil(ROWS);
    let shares = if passes.is_power_of_two() {
        passes
    } else {
        passes.next_power_of_two() / 2
    };
    let shares = shares.min(LINE);
    for (pass, row) in (0..rows).step_by(ROWS).enumerate() {
        let ahead = Ahead {
            distance: TILE_OUTPUTS * tile.inputs,
            shares,
            share: pass,
        };
        match (rows - row, pass < shares) {
            (1, true) => row_block::<S, 1, 8, true>(tile, row, ahead, out),
            (2, true) => row_block::<S, 2, 4, true>(tile, row, ahead, out),
            (3, true) => row_block::<S, 3, 3, true>(tile, row, ahead, out),
            (_, true) => row_block::<S, ROWS, 3, true>(tile, row, ahead, out),
            (1, false) => row_block::<S, 1, 8, false>(tile, row, ahead, out),
            (2, false) => row_block::<S, 2, 4, false>(tile, row, ahead, out),
            (3, false) => row_block::<S, 3, 3, false>(tile, row, ahead, out),
            (_, false) => row_block::<S, ROWS, 3, false>(tile, row, ahead, out),
        }
    }
}

/// `COUNT` rows from `row` on, `WIDTH` outputs at a time.
#[inline(always)]
fn row_block<S: Lanes, const COUNT: usize, const WIDTH: usize, const PREFETCH: bool>(
    tile: Tile<'_>,
    row: usize,
    ahead: Ahead,
    out: &mut [f32],
) {
    let left: [&[f32]; COUNT] = rows_from(tile.x, tile.inputs, row);
    let outputs = tile.weight.len() / tile.inputs;
    let mut column = 0;
    while column + WIDTH <= outputs {
        let right: [&[f32]; WIDTH] = rows_from(tile.weight, tile.inputs, column);
        let sums = dot_products::<S, COUNT, WIDTH, PREFETCH>(left, right, ahead);
        for (index, sums) in sums.iter().enumerate() {
            let place = (row + index) * TILE_OUTPUTS + column;
            out[place..place + WIDTH].copy_from_slice(sums);
        }
        column += WIDTH;
    }
    while column < outputs {
        let right: [&[f32]; 1] = rows_from(tile.weight, tile.inputs, column);
        let sums = dot_products::<S, COUNT, 1, PREFETCH>(left, right, ahead);
        for (index, [sum]) in sums.iter().enumerate() {
            out[(row + index) * TILE_OUTPUTS + column] = *sum;
        }
        column += 1;
    }
}

#[inline(always)]
fn rows_from<const COUNT: usize>(matrix: &[f32], width: usize, first: usize) -> [&[f32]; COUNT] {
    std::array::from_fn(|index| &matrix[(first + index) * width..(first + index + 1) * width])
}

/// Every dot product of a row of `left` with a row of `right`. All rows have the same length. With `PREFETCH`, what lies ahead of `right`
/// is asked for.
#[inline(always)]
pub(crate) fn dot_products<S: Lanes, const ROWS: usize, const WIDTH: usize, const PREFETCH: bool>(
    left: [&[f32]; ROWS],
    right: [&[f32]; WIDTH],
    ahead: Ahead,
) -> [[f32; WIDTH]; ROWS] {
    let length = left[0].len();
    assert!(left.iter().all(|row| row.len() == length) && right.iter().all(|row| row.len() == length));
    let whole = length - length % LANES;
    let mut sums = [[S::splat(0.0); WIDTH]; ROWS];
    let mut at = 0;
    while at < whole {
        if PREFETCH && at.is_multiple_of(LINE) && (at / LINE) & (ahead.shares - 1) == ahead.share {
            for row in right {
                S::prefetch(row.as_ptr().wrapping_add(at + ahead.distance));
            }
        }
        // SAFETY: `at + LANES <= length`, the length of every row.
        let factors: [S; WIDTH] = std::array::from_fn(|index| unsafe { S::load(right[index].as_ptr().add(at)) });
        for (row, sums) in left.iter().zip(&mut sums) {
            // SAFETY: as above.
            let value = unsafe { S::load(row.as_ptr().add(at)) };
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum = value.mul_add(factor, *sum);
            }
        }
        at += LANES;
    }
    let mut results = [[0.0; WIDTH]; ROWS];
    for row in 0..ROWS {
        for column in 0..WIDTH {
            let rest = left[row][whole..].iter().zip(&right[column][whole..]);
            results[row][column] = rest.fold(sums[row][column].sum(), |sum, (a, b)| sum + a * b);
        }
    }
    results
}
