//! Layers of quantised weights over rows of activations, on all threads.
#![expect(unsafe_code, reason = "one output shared by threads")]

use std::cell::RefCell;

use super::activations::Prepared;
use super::layout::{Layout, PANEL};
use super::panel::{Input, Panel, panel_products};
use super::{Activations, ByteInstructions};
use crate::activation::gate_elements;
use crate::linear::SharedRows;
use crate::profile::{Part, measure};
use crate::{Machine, Rows};

/// A layer's weights.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    /// Their shape.
    pub layout: Layout,
    /// `layout.bytes()` of them.
    pub panels: &'a [u8],
    /// `[outputs]`.
    pub bias: Option<&'a [f32]>,
}

impl Weight<'_> {
    fn check(&self, inputs: usize) {
        assert_eq!(self.layout.inputs(), inputs);
        assert_eq!(self.panels.len(), self.layout.bytes());
        assert!(self.bias.is_none_or(|bias| bias.len() == self.layout.outputs()));
    }

    /// Computes the products of panel `index` and adds the bias.
    fn products(&self, method: Method, index: usize, input: &Input<'_>, out: &mut [f32]) {
        let size = self.layout.panel_bytes();
        let panel = Panel {
            layout: &self.layout,
            bytes: &self.panels[index * size..(index + 1) * size],
        };
        panel_products(method.instructions, panel, input, out);
        if let Some(bias) = self.bias {
            let bias = &bias[index * PANEL..self.layout.outputs().min((index + 1) * PANEL)];
            out.chunks_exact_mut(PANEL).for_each(|out| add(out, bias));
        }
    }

    /// The number of outputs of panel `index`.
    fn width(&self, index: usize) -> usize {
        PANEL.min(self.layout.outputs() - index * PANEL)
    }
}

/// How quantised products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Instruction set; the results do not depend on it.
    pub instructions: ByteInstructions,
    /// What becomes of activations.
    pub activations: Activations,
}

/// Products of rows of activations with any weights.
#[derive(Debug, Clone, Copy)]
pub struct Products<'a> {
    /// Threads, and instructions of what is not a product.
    pub machine: &'a Machine,
    /// How they are computed.
    pub method: Method,
    /// The activations. Widths are multiples of [`RUN`](super::RUN).
    pub x: Rows<'a>,
}

impl Products<'_> {
    /// Computes `x Wᵀ + bias` of every weight, side by side, and adds `residual`. `out` and `residual`: `[rows, outputs of all weights]`.
    ///
    /// # Panics
    /// When the slices' lengths do not agree.
    pub fn linear(&self, weights: &[Weight<'_>], residual: Option<&[f32]>, out: &mut [f32]) {
        let _measure = measure(Part::Quantized);
        let mut panels = Vec::new();
        let mut width = 0;
        for weight in weights {
            weight.check(self.x.width);
            panels.extend((0..weight.layout.panels()).map(|index| (weight, index, width + index * PANEL)));
            width += weight.layout.outputs();
        }
        assert!(residual.is_none_or(|residual| residual.len() == out.len()));
        let out = SharedRows::new(out, self.rows(), width);
        self.in_tasks(panels.len(), &|task, input, [scratch, _]| {
            let (weight, index, start) = panels[task];
            weight.products(self.method, index, input, scratch);
            let columns = start..start + weight.width(index);
            for (row, products) in scratch.chunks_exact(PANEL).enumerate() {
                // SAFETY: no two panels have a column in common.
                let target = unsafe { out.columns(row, columns.clone()) };
                target.copy_from_slice(&products[..columns.len()]);
                if let Some(residual) = residual {
                    add(
                        target,
                        &residual[row * width + columns.start..row * width + columns.end],
                    );
                }
            }
        });
    }

    /// Computes `g · sigmoid(g) · u` with `g = x Gᵀ` and `u = x Uᵀ`, biases included, into `out`: `[rows, outputs]`.
    ///
    /// # Panics
    /// When the slices' lengths do not agree.
    pub fn gated(&self, [gate, up]: [Weight<'_>; 2], out: &mut [f32]) {
        let _measure = measure(Part::Quantized);
        gate.check(self.x.width);
        up.check(self.x.width);
        let width = gate.layout.outputs();
        assert_eq!(up.layout.outputs(), width);
        let out = SharedRows::new(out, self.rows(), width);
        self.in_tasks(gate.layout.panels(), &|index, input, [gates, ups]| {
            gate.products(self.method, index, input, gates);
            up.products(self.method, index, input, ups);
            let columns = index * PANEL..index * PANEL + gate.width(index);
            for (row, (gates, ups)) in gates.chunks_exact(PANEL).zip(ups.chunks_exact(PANEL)).enumerate() {
                // SAFETY: no two panels have a column in common.
                let target = unsafe { out.columns(row, columns.clone()) };
                let (gates, ups) = (&gates[..columns.len()], &ups[..columns.len()]);
                gate_elements(self.machine.instructions, gates, ups, target);
            }
        });
    }

    fn rows(&self) -> usize {
        let rows = self.x.values.len() / self.x.width;
        assert_eq!(self.x.values.len(), rows * self.x.width);
        rows
    }

    /// Prepares the activations and runs panels on all threads, several in a row on each.
    fn in_tasks(&self, panels: usize, work: &Work<'_>) {
        let Self { machine, method, x } = self;
        let rows = self.rows();
        // Enough pieces for an even end, few enough that each streams a while.
        let size = panels.div_ceil(machine.pool.threads() * PIECES).max(1);
        PREPARED.with_borrow_mut(|prepared| {
            prepared.fill(method.instructions, &machine.pool, x.values, method.activations);
            let input = Input {
                values: x.values,
                prepared,
                activations: method.activations,
            };
            machine.pool.run(panels.div_ceil(size), &|task| {
                SCRATCH.with_borrow_mut(|scratch| {
                    for half in scratch.iter_mut() {
                        half.resize(rows * PANEL, 0.0);
                    }
                    for panel in task * size..panels.min((task + 1) * size) {
                        work(panel, &input, scratch);
                    }
                });
            });
        });
    }
}

/// What is done with a panel, the input and memory for the products of two panels.
type Work<'a> = dyn Fn(usize, &Input<'_>, &mut [Vec<f32>; 2]) + Sync + 'a;

/// Pieces of work for each thread.
const PIECES: usize = 8;

fn add(target: &mut [f32], other: &[f32]) {
    for (value, other) in target.iter_mut().zip(other) {
        *value += other;
    }
}

thread_local! {
    /// The caller's activations.
    static PREPARED: RefCell<Prepared> = RefCell::default();
    /// The products of a panel, twice.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = RefCell::default();
}
