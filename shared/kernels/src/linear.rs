//! `x Wᵀ` for weights as checkpoints store them, without packing them first: what a matrix library loses at few rows.
#![expect(unsafe_code, reason = "inner loops over pointers, one output shared by threads")]

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::{LANES, Lanes};

/// Rows of weights computed for all rows of `x` before the next ones: they stay in the first-level cache. A multiple of every
/// block's width below.
const TILE_OUTPUTS: usize = 24;

/// Elements of a cache line.
const LINE: usize = 16;

/// Rows of `x` computed together.
const ROWS: usize = 4;

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

/// One product: `x`: `[rows, inputs]`, `weight`: `[outputs, inputs]`, `bias`: `[outputs]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Rows of activations.
    pub x: &'a [f32],
    /// A row for each output.
    pub weight: &'a [f32],
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Length of a row of `x` and of `weight`.
    pub inputs: usize,
}

/// Computes `x Wᵀ + bias` into `out`: `[rows, outputs]`.
///
/// # Panics
/// When the slices' lengths do not agree.
pub fn linear(machine: &Machine, product: Linear<'_>, out: &mut [f32]) {
    let Linear {
        x,
        weight,
        bias,
        inputs,
    } = product;
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    assert_eq!(x.len(), rows * inputs);
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(out.len(), rows * outputs);
    assert!(bias.is_none_or(|bias| bias.len() == outputs));
    let out = SharedOutput(out.as_mut_ptr());
    let tiles = outputs.div_ceil(TILE_OUTPUTS);
    // Enough pieces for an even end, few enough that taking one costs nothing.
    let tiles_per_task = tiles.div_ceil(64);
    machine.pool.run(tiles.div_ceil(tiles_per_task), &|task| {
        let first = task * tiles_per_task * TILE_OUTPUTS;
        let columns = first..outputs.min(first + tiles_per_task * TILE_OUTPUTS);
        for start in columns.clone().step_by(TILE_OUTPUTS) {
            let tile = Tile {
                product,
                rows,
                outputs,
                first: start,
                last: columns.end.min(start + TILE_OUTPUTS),
                out: &out,
            };
            compute_tile(machine.instructions, &tile);
        }
    });
}

/// Written by several threads, each to columns of its own.
struct SharedOutput(*mut f32);

// SAFETY: threads write disjoint elements, see `linear`.
unsafe impl Sync for SharedOutput {}

/// Outputs `first..last` of every row.
struct Tile<'a> {
    product: Linear<'a>,
    rows: usize,
    outputs: usize,
    first: usize,
    last: usize,
    out: &'a SharedOutput,
}

dispatched! { fn compute_tile = tile_product(tile: &Tile<'_>) }

#[inline(always)]
fn tile_product<S: Lanes>(tile: &Tile<'_>) {
    // The next tile's lines are spread over the passes, so that memory is busy in all of them.
    let passes = tile.rows.div_ceil(ROWS);
    let shares = if passes.is_power_of_two() {
        passes
    } else {
        passes.next_power_of_two() / 2
    }
    .min(LINE);
    for (pass, row) in (0..tile.rows).step_by(ROWS).enumerate() {
        let ahead = Ahead {
            distance: TILE_OUTPUTS * tile.product.inputs,
            shares,
            share: pass,
        };
        match (tile.rows - row, pass < shares) {
            (1, true) => row_block::<S, 1, 8, true>(tile, row, ahead),
            (2, true) => row_block::<S, 2, 4, true>(tile, row, ahead),
            (3, true) => row_block::<S, 3, 3, true>(tile, row, ahead),
            (_, true) => row_block::<S, ROWS, 3, true>(tile, row, ahead),
            (1, false) => row_block::<S, 1, 8, false>(tile, row, ahead),
            (2, false) => row_block::<S, 2, 4, false>(tile, row, ahead),
            (3, false) => row_block::<S, 3, 3, false>(tile, row, ahead),
            (_, false) => row_block::<S, ROWS, 3, false>(tile, row, ahead),
        }
    }
}

/// `ROWS` rows from `row` on, `WIDTH` outputs at a time.
#[inline(always)]
fn row_block<S: Lanes, const ROWS: usize, const WIDTH: usize, const FIRST: bool>(
    tile: &Tile<'_>,
    row: usize,
    ahead: Ahead,
) {
    let mut column = tile.first;
    while column + WIDTH <= tile.last {
        block::<S, ROWS, WIDTH, FIRST>(tile, row, column, ahead);
        column += WIDTH;
    }
    while column < tile.last {
        block::<S, ROWS, 1, FIRST>(tile, row, column, ahead);
        column += 1;
    }
}

#[inline(always)]
fn block<S: Lanes, const ROWS: usize, const WIDTH: usize, const FIRST: bool>(
    tile: &Tile<'_>,
    row: usize,
    column: usize,
    ahead: Ahead,
) {
    let Linear {
        x,
        weight,
        bias,
        inputs,
    } = tile.product;
    let left: [&[f32]; ROWS] = std::array::from_fn(|index| &x[(row + index) * inputs..(row + index + 1) * inputs]);
    let right: [&[f32]; WIDTH] =
        std::array::from_fn(|index| &weight[(column + index) * inputs..(column + index + 1) * inputs]);
    let sums = dot_products::<S, ROWS, WIDTH, FIRST>(left, right, ahead);
    for (row_offset, sums) in sums.iter().enumerate() {
        for (offset, sum) in sums.iter().enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[column + offset]);
            let place = (row + row_offset) * tile.outputs + column + offset;
            // SAFETY: `linear` checked the output's length; this tile's columns are written by this thread only.
            unsafe { tile.out.0.add(place).write(sum + bias) };
        }
    }
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

#[cfg(test)]
mod tests;
