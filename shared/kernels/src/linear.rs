//! `x Wᵀ` for weights as checkpoints store them, without packing or widening them first: what a matrix library loses at few rows.
#![expect(unsafe_code, reason = "one output shared by threads")]

use std::cell::RefCell;
use std::ops::Range;

use crate::Machine;
use crate::activation::gate_elements;
use crate::profile::{Part, measure};
use crate::stored::Matrix;
use crate::tile::{TILE_OUTPUTS, Tile, tile_products};

/// A layer's weights.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    /// `[outputs, inputs]`.
    pub matrix: Matrix<'a>,
    /// `[outputs]`.
    pub bias: Option<&'a [f32]>,
}

impl<'a> Weight<'a> {
    /// The tile of the outputs `columns`.
    fn tile(&self, x: Rows<'a>, columns: &Range<usize>) -> Tile<'a> {
        Tile {
            x: x.values,
            weight: self.matrix.part(columns.start * x.width..columns.end * x.width),
            inputs: x.width,
        }
    }

    fn outputs(&self, inputs: usize) -> usize {
        let outputs = self.matrix.len() / inputs;
        assert_eq!(self.matrix.len(), outputs * inputs);
        assert!(self.bias.is_none_or(|bias| bias.len() == outputs));
        outputs
    }
}

/// Rows of activations, one after another.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows, width]`.
    pub values: &'a [f32],
    /// Length of a row.
    pub width: usize,
}

impl Rows<'_> {
    fn count(&self) -> usize {
        let count = self.values.len() / self.width;
        assert_eq!(self.values.len(), count * self.width);
        count
    }
}

/// Computes `x Wᵀ + bias` of every weight, side by side, and adds `residual`. `out` and `residual`:
/// `[rows, outputs of all weights]`.
///
/// # Panics
/// When the slices' lengths do not agree.
pub fn linear(machine: &Machine, x: Rows<'_>, weights: &[Weight<'_>], residual: Option<&[f32]>, out: &mut [f32]) {
    let _measure = measure(Part::Linear);
    let mut tiles = Vec::new();
    let mut width = 0;
    for weight in weights {
        let outputs = weight.outputs(x.width);
        tiles.extend(tile_columns(outputs).map(|columns| (weight, columns, width)));
        width += outputs;
    }
    assert!(residual.is_none_or(|residual| residual.len() == out.len()));
    let out = SharedRows::new(out, x.count(), width);
    in_tasks(machine, tiles.len(), x.count(), &|index, [scratch, _]| {
        let (weight, columns, before) = &tiles[index];
        tile_products(machine.instructions, weight.tile(x, columns), scratch);
        for (row, products) in scratch.chunks_exact(TILE_OUTPUTS).enumerate() {
            let place = before + columns.start..before + columns.end;
            // SAFETY: no two tiles have a column in common.
            let target = unsafe { out.columns(row, place.clone()) };
            target.copy_from_slice(&products[..columns.len()]);
            if let Some(bias) = weight.bias {
                add(target, &bias[columns.clone()]);
            }
            if let Some(residual) = residual {
                add(target, &residual[row * width + place.start..row * width + place.end]);
            }
        }
    });
}

/// Computes `g · sigmoid(g) · u` with `g = x Gᵀ` and `u = x Uᵀ`, biases included, into `out`: `[rows, outputs]`.
///
/// # Panics
/// When the slices' lengths do not agree.
pub fn gated(machine: &Machine, x: Rows<'_>, [gate, up]: [Weight<'_>; 2], out: &mut [f32]) {
    let _measure = measure(Part::Gated);
    let width = gate.outputs(x.width);
    assert_eq!(up.outputs(x.width), width);
    let tiles: Vec<_> = tile_columns(width).collect();
    let out = SharedRows::new(out, x.count(), width);
    in_tasks(machine, tiles.len(), x.count(), &|index, [gates, ups]| {
        let columns = &tiles[index];
        for (weight, scratch) in [(gate, &mut *gates), (up, &mut *ups)] {
            tile_products(machine.instructions, weight.tile(x, columns), scratch);
            let rows = scratch.chunks_exact_mut(TILE_OUTPUTS);
            if let Some(bias) = weight.bias {
                rows.for_each(|products| add(products, &bias[columns.clone()]));
            }
        }
        let rows = gates.chunks_exact(TILE_OUTPUTS).zip(ups.chunks_exact(TILE_OUTPUTS));
        for (row, (gate, up)) in rows.enumerate() {
            // SAFETY: no two tiles have a column in common.
            let target = unsafe { out.columns(row, columns.clone()) };
            gate_elements(
                machine.instructions,
                &gate[..columns.len()],
                &up[..columns.len()],
                target,
            );
        }
    });
}

fn add(target: &mut [f32], other: &[f32]) {
    for (value, other) in target.iter_mut().zip(other) {
        *value += other;
    }
}

fn tile_columns(outputs: usize) -> impl Iterator<Item = Range<usize>> {
    (0..outputs)
        .step_by(TILE_OUTPUTS)
        .map(move |first| first..outputs.min(first + TILE_OUTPUTS))
}

/// Runs tiles on all threads, several in a row on each.
fn in_tasks(machine: &Machine, tiles: usize, rows: usize, work: &(dyn Fn(usize, &mut [Vec<f32>; 2]) + Sync)) {
    // Enough pieces for an even end, few enough that taking one costs nothing.
    let size = tiles.div_ceil(64).max(1);
    machine.pool.run(tiles.div_ceil(size), &|task| {
        SCRATCH.with_borrow_mut(|scratch| {
            for half in scratch.iter_mut() {
                half.resize(rows * TILE_OUTPUTS, 0.0);
            }
            for tile in task * size..tiles.min((task + 1) * size) {
                work(tile, scratch);
            }
        });
    });
}

thread_local! {
    /// The products of a tile, twice.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = RefCell::default();
}

/// An output that is written by several threads, each to columns of its own.
pub(crate) struct SharedRows {
    values: *mut f32,
    rows: usize,
    width: usize,
}

// SAFETY: `columns` is called for disjoint columns only.
unsafe impl Sync for SharedRows {}

impl SharedRows {
    pub(crate) fn new(values: &mut [f32], rows: usize, width: usize) -> Self {
        assert_eq!(values.len(), rows * width);
        Self {
            values: values.as_mut_ptr(),
            rows,
            width,
        }
    }

    /// # Safety
    /// Nobody else uses these columns of this row, and the output outlives the result.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, the caller's promise")]
    pub(crate) unsafe fn columns(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.end <= self.width);
        // SAFETY: within the output, as just checked; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.width + columns.start), columns.len()) }
    }
}

#[cfg(test)]
mod tests;
