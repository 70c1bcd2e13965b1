//! The products of all rows of activations with one panel of weights: what one thread computes at a time.
//!
//! No closure may hold a vector: it would be compiled without the instructions that its caller is compiled for.
#![expect(unsafe_code, reason = "inner loops over pointers")]

use super::activations::{Activations, Prepared};
use super::float::Float;
use super::instructions::by_bytes;
use super::int8::Int8;
use super::layout::{Bits, Layout, PANEL, RUN};
use super::pack::runs;
use super::vector::{LINES, Vector};

/// Sixteen outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) layout: &'a Layout,
    /// `layout.panel_bytes()` of them.
    pub(super) bytes: &'a [u8],
}

/// Rows of activations as they were and as they are multiplied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    /// `[rows, inputs]`.
    pub(super) values: &'a [f32],
    pub(super) prepared: &'a Prepared,
    pub(super) activations: Activations,
}

/// How a run of activations is multiplied with a run of weights.
pub(super) trait Multiply {
    /// Returns `Σ q x` of run `run` of `ROWS` rows from `row` on, in units.
    ///
    /// # Safety
    /// The rows must have that run, of which the input has `runs` each.
    unsafe fn products<V: Vector, W: Weights, const ROWS: usize>(
        weights: &[V::Bytes; LINES],
        input: &Input<'_>,
        places: Places,
    ) -> [V::Floats; ROWS];

    /// Returns what a unit of run `place` stands for.
    ///
    /// # Safety
    /// The input must have that run.
    unsafe fn unit(input: &Input<'_>, place: usize) -> f32;
}

/// Where the runs of several rows lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// The first row's run, counted in runs.
    pub(super) first: usize,
    /// Runs from one row to the next.
    pub(super) stride: usize,
}

/// How a run of weights is stored.
pub(super) trait Weights {
    const BYTES: usize;

    /// Reads the run for `V::OUTPUTS` outputs.
    ///
    /// # Safety
    /// `source` must be that many bytes from the end, at the first output's.
    unsafe fn load<V: Vector>(source: *const u8) -> [V::Bytes; LINES];

    /// Returns the sums of products with a run of each row's activations.
    ///
    /// # Safety
    /// A run must be readable at each of `x`.
    unsafe fn sums<V: Vector, const ROWS: usize>(weights: &[V::Bytes; LINES], x: [*const i8; ROWS]) -> [V::Sums; ROWS];
}

/// Four bits.
enum Small {}

/// Eight bits.
enum Large {}

/// How far ahead weights are asked for. The processor's own look-ahead ends with each page.
const AHEAD: usize = 4096;

/// Bytes of a line.
const LINE: usize = 4 * PANEL;

impl Weights for Small {
    const BYTES: usize = LINE * LINES / 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(source: *const u8) -> [V::Bytes; LINES] {
        let mut weights = [V::no_bytes(); LINES];
        for (line, pair) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *pair = V::halves(unsafe { V::bytes(source.add(line * LINE)) });
        }
        weights
    }

    #[inline(always)]
    unsafe fn sums<V: Vector, const ROWS: usize>(weights: &[V::Bytes; LINES], x: [*const i8; ROWS]) -> [V::Sums; ROWS] {
        // SAFETY: the caller's promise.
        unsafe { V::small_sums(weights, x) }
    }
}

impl Weights for Large {
    const BYTES: usize = LINE * LINES;

    #[inline(always)]
    unsafe fn load<V: Vector>(source: *const u8) -> [V::Bytes; LINES] {
        let mut weights = [V::no_bytes(); LINES];
        for (line, weights) in weights.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *weights = unsafe { V::bytes(source.add(line * LINE)) };
        }
        weights
    }

    #[inline(always)]
    unsafe fn sums<V: Vector, const ROWS: usize>(weights: &[V::Bytes; LINES], x: [*const i8; ROWS]) -> [V::Sums; ROWS] {
        // SAFETY: the caller's promise.
        unsafe { V::large_sums(weights, x) }
    }
}

by_bytes! {
    /// Computes the products of every row with `panel` into `out`: `[rows, PANEL]`.
    pub(super) fn panel_products = products(panel: Panel<'_>, input: &Input<'_>, out: &mut [f32])
}

#[inline(always)]
fn products<V: Vector>(panel: Panel<'_>, input: &Input<'_>, out: &mut [f32]) {
    let rows = out.len() / PANEL;
    let runs = rows * panel.layout.inputs() / RUN;
    assert_eq!(panel.bytes.len(), panel.layout.panel_bytes());
    assert_eq!(input.values.len(), runs * RUN);
    assert_eq!(input.prepared.sums.len(), runs);
    match (panel.layout.bits(), input.activations) {
        (Bits::Four, Activations::Int8) => {
            assert!(input.prepared.bytes.len() == runs * RUN && input.prepared.scales.len() == runs);
            all_rows::<V, Small, Int8>(panel, input, out);
        }
        (Bits::Eight, Activations::Int8) => {
            assert!(input.prepared.bytes.len() == runs * RUN && input.prepared.scales.len() == runs);
            all_rows::<V, Large, Int8>(panel, input, out);
        }
        (Bits::Four, Activations::Float32) => all_rows::<V, Small, Float>(panel, input, out),
        (Bits::Eight, Activations::Float32) => all_rows::<V, Large, Float>(panel, input, out),
    }
}

/// Rows in blocks: how many are computed together changes how often weights are unpacked, not what becomes of a row.
#[inline(always)]
fn all_rows<V: Vector, W: Weights, M: Multiply>(panel: Panel<'_>, input: &Input<'_>, out: &mut [f32]) {
    for first in (0..PANEL).step_by(V::OUTPUTS) {
        let mut row = 0;
        let mut rest = &mut *out;
        while !rest.is_empty() {
            let block = match rest.len() / PANEL {
                8.. if V::ROWS >= 8 => 8,
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let (out, others) = rest.split_at_mut(block * PANEL);
            // SAFETY: `products` asserted that the input has every row in full, and the panel all its bytes.
            unsafe {
                match block {
                    8 => rows::<V, W, M, 8>(panel, [first, row], input, out),
                    4 => rows::<V, W, M, 4>(panel, [first, row], input, out),
                    2 => rows::<V, W, M, 2>(panel, [first, row], input, out),
                    _ => rows::<V, W, M, 1>(panel, [first, row], input, out),
                }
            }
            row += block;
            rest = others;
        }
    }
}

/// `V::OUTPUTS` outputs from `first` on of `ROWS` rows from `row` on.
///
/// # Safety
/// The panel must have all its bytes, and the input those rows in full.
#[inline(always)]
unsafe fn rows<V: Vector, W: Weights, M: Multiply, const ROWS: usize>(
    panel: Panel<'_>,
    [first, row]: [usize; 2],
    input: &Input<'_>,
    out: &mut [f32],
) {
    let layout = panel.layout;
    let stride = layout.inputs() / RUN;
    let scale_bytes = layout.scales().bytes();
    let mut totals = [V::splat(0.0); ROWS];
    let mut run = row * stride;
    for group in panel.bytes.chunks_exact(layout.group_bytes()) {
        // The first rows wait for memory, those after them find the panel in the cache. One row or two are too fast to gain by it.
        if ROWS >= 4 && row == 0 && first == 0 {
            for line in (0..layout.group_bytes()).step_by(64) {
                V::prefetch(group.as_ptr().wrapping_add(AHEAD + line));
            }
        }
        // SAFETY: a group begins with two times `PANEL` scales, and has `W::BYTES` for each run behind them.
        let (scale, bias, mut weights) = unsafe {
            let scales = group.as_ptr().add(first * scale_bytes);
            let biases = scales.add(PANEL * scale_bytes);
            let weights = group.as_ptr().add(2 * PANEL * scale_bytes + 4 * first);
            (
                V::scales(scales, layout.scales()),
                V::scales(biases, layout.scales()),
                weights,
            )
        };
        for _ in 0..runs(layout) {
            let places = Places { first: run, stride };
            // SAFETY: as above; every row has this run.
            let products = unsafe {
                let loaded = W::load::<V>(weights);
                weights = weights.add(W::BYTES);
                M::products::<V, W, ROWS>(&loaded, input, places)
            };
            for (index, (total, product)) in totals.iter_mut().zip(products).enumerate() {
                let place = run + index * stride;
                // SAFETY: there is a sum and a unit for each run of each row.
                let (sum, unit) = unsafe { (*input.prepared.sums.get_unchecked(place), M::unit(input, place)) };
                let value = V::mul_add(bias, V::splat(sum), V::mul(scale, product));
                *total = V::mul_add(V::splat(unit), value, *total);
            }
            run += 1;
        }
    }
    for (total, out) in totals.iter().zip(out.chunks_exact_mut(PANEL)) {
        let out = &mut out[first..first + V::OUTPUTS];
        // SAFETY: `out` has `V::OUTPUTS` elements.
        unsafe { V::store(*total, out.as_mut_ptr()) }
    }
}
