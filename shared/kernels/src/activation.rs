//! The gate of gated feed-forward layers.
#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use crate::instructions::dispatched;
use crate::lanes::Lanes;

dispatched! {
    /// Computes `gate * sigmoid(gate) * up` into `out`; all three have one length.
    pub(crate) fn gate_elements = gated(gate: &[f32], up: &[f32], out: &mut [f32])
}

#[inline(always)]
fn gated<S: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len());
    let whole = gate.len() - gate.len() % S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + S::LANES` is within all three slices.
        unsafe {
            let value = gated_lanes(S::load(gate.as_ptr().add(at)), S::load(up.as_ptr().add(at)));
            value.store(out.as_mut_ptr().add(at));
        }
    }
    for at in whole..gate.len() {
        let value: S = gated_lanes(S::splat(gate[at]), S::splat(up[at]));
        out[at] = value.first();
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
        for instructions in Instructions::available() {
            let mut out = vec![0.0; gate.len()];
            gate_elements(instructions, &gate, &up, &mut out);
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
