//! What becomes of one head's query or key before it meets others.

use super::RotaryTable;
use crate::Instructions;
use crate::instructions::dispatched;
use crate::lanes::Lanes;
use crate::norm::normalise;

/// Root mean square normalisation of each head on its own (Dehghani et al. 2023, arXiv 2302.05442; with this norm in Qwen 3 and
/// Gemma 3).
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[head_dim]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// How a query or a key is made ready: normalised where the model does that, then rotated.
#[derive(Debug, Clone, Copy)]
pub struct Preparation<'a> {
    /// Comes first.
    pub norm: Option<HeadNorm<'a>>,
    /// Angles by position. Where it is narrower than a head, only the first elements are turned.
    pub rotary: &'a RotaryTable,
}

dispatched! { fn prepare_head = prepare(preparation: Preparation<'_>, position: usize, head: &[f32], out: &mut [f32]) }

#[inline(always)]
fn prepare<S: Lanes>(preparation: Preparation<'_>, position: usize, head: &[f32], out: &mut [f32]) {
    preparation.prepare::<S>(position, head, out);
}

impl Preparation<'_> {
    pub(super) fn check(&self, head_dim: usize) {
        assert!(
            self.rotary.width() <= head_dim,
            "the angles are for {} elements of {head_dim}",
            self.rotary.width()
        );
        assert!(self.norm.is_none_or(|norm| norm.weight.len() == head_dim));
    }

    pub(super) fn apply(&self, instructions: Instructions, position: usize, head: &[f32], out: &mut [f32]) {
        prepare_head(instructions, *self, position, head, out);
    }

    /// `head` and `out`: `[head_dim]`.
    #[inline(always)]
    pub(super) fn prepare<S: Lanes>(&self, position: usize, head: &[f32], out: &mut [f32]) {
        match self.norm {
            Some(HeadNorm { weight, eps }) => normalise::<S>(head, weight, eps, out),
            None => out.copy_from_slice(head),
        }
        self.rotary.rotate(position, out);
    }
}
