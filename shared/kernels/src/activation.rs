//! The gate of gated feed-forward layers.
#![expect(
    unsafe_code,
    reason = "vector loads and stores through pointers, one output shared by threads"
)]

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::{LANES, Lanes};

/// Elements that are worth a thread of their own.
const TASK_ELEMENTS: usize = 8192;

/// Computes `gate * sigmoid(gate) * up` into `out`.
///
/// # Panics
/// When the slices' lengths differ.
pub fn swiglu(machine: &Machine, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len());
    let target = SharedOutput(out.as_mut_ptr());
    machine.pool.run(gate.len().div_ceil(TASK_ELEMENTS), &|task| {
        let start = task * TASK_ELEMENTS;
        let end = gate.len().min(start + TASK_ELEMENTS);
        let target = target.from(start);
        // SAFETY: tasks cover disjoint ranges within `out`, which outlives the call.
        let out = unsafe { std::slice::from_raw_parts_mut(target, end - start) };
        gate_elements(machine.instructions, &gate[start..end], &up[start..end], out);
    });
}

struct SharedOutput(*mut f32);

impl SharedOutput {
    fn from(&self, start: usize) -> *mut f32 {
        // SAFETY: `swiglu` starts within the slice.
        unsafe { self.0.add(start) }
    }
}

// SAFETY: threads write disjoint ranges, see `swiglu`.
unsafe impl Sync for SharedOutput {}

dispatched! { fn gate_elements = gated(gate: &[f32], up: &[f32], out: &mut [f32]) }

#[inline(always)]
fn gated<S: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let whole = gate.len() - gate.len() % LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: `at + LANES` is within all three slices.
        unsafe {
            let value = gated_lanes(S::load(gate.as_ptr().add(at)), S::load(up.as_ptr().add(at)));
            value.store(out.as_mut_ptr().add(at));
        }
    }
    for at in whole..gate.len() {
        let value: S = gated_lanes(S::splat(gate[at]), S::splat(up[at]));
        out[at] = value.to_array()[0];
    }
}

#[inline(always)]
fn gated_lanes<S: Lanes>(gate: S, up: S) -> S {
    let one = S::splat(1.0);
    let denominator = one.add(S::splat(0.0).sub(gate).exp());
    gate.div(denominator).mul(up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instructions;

    #[test]
    fn elements_are_gated() {
        let gate: Vec<f32> = (0..20_003).map(|index| (index as f32 - 10_000.0) / 100.0).collect();
        let up: Vec<f32> = gate.iter().map(|value| value.cos()).collect();
        for instructions in [Instructions::detect(), Instructions::portable()] {
            let machine = Machine {
                instructions,
                ..Machine::new(2)
            };
            let mut out = vec![0.0; gate.len()];
            swiglu(&machine, &gate, &up, &mut out);
            for (index, found) in out.iter().enumerate() {
                let value = f64::from(gate[index]);
                let expected = value / (1.0 + (-value).exp()) * f64::from(up[index]);
                let tolerance = 1e-6 * expected.abs().max(1.0);
                assert!(
                    (f64::from(*found) - expected).abs() < tolerance,
                    "{value}: {found} {expected}"
                );
            }
        }
    }
}
