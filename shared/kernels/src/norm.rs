//! Root mean square normalisation.
#![expect(unsafe_code, reason = "vector loads and stores through pointers")]

use crate::Machine;
use crate::instructions::dispatched;
use crate::lanes::Lanes;
use crate::linear::SharedRows;
use crate::profile::{Part, measure};

/// Elements that a thread takes at a time: fewer are not worth another one's help.
const ELEMENTS: usize = 1 << 14;

/// Computes `x / sqrt(mean(x²) + eps) * weight` for every row of `x` into `out`; rows have the length of `weight`.
///
/// # Panics
/// When the slices' lengths do not agree.
pub fn rms_norm(machine: &Machine, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let _measure = measure(Part::Norm);
    assert_eq!(x.len(), out.len());
    assert!(x.len().is_multiple_of(weight.len()));
    let width = weight.len();
    let count = x.len().checked_div(width).unwrap_or(0);
    let out = SharedRows::new(out, count, width);
    let rows = (ELEMENTS / width.max(1)).max(1);
    machine.pool.run(count.div_ceil(rows), &|task| {
        for row in task * rows..count.min((task + 1) * rows) {
            // SAFETY: no two tasks have a row in common.
            let out = unsafe { out.columns(row, 0..width) };
            normalise_row(
                machine.instructions,
                &x[row * width..(row + 1) * width],
                weight,
                eps,
                out,
            );
        }
    });
}

dispatched! { fn normalise_row = normalise(row: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) }

/// `row`, `weight` and `out` have one length.
#[inline(always)]
pub(crate) fn normalise<S: Lanes>(row: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(row.len() == weight.len() && row.len() == out.len());
    let whole = row.len() - row.len() % S::LANES;
    let mut squares = S::splat(0.0);
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + S::LANES` is within the row.
        let values = unsafe { S::load(row.as_ptr().add(at)) };
        squares = values.mul_add(values, squares);
    }
    let sum = row[whole..]
        .iter()
        .fold(squares.sum(), |sum, value| sum + value * value);
    #[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 elements")]
    let scale = (sum / row.len() as f32 + eps).sqrt().recip();
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + S::LANES` is within `row`, `weight` and `out`, which are of one length.
        unsafe {
            let values = S::load(row.as_ptr().add(at)).mul(S::splat(scale));
            values
                .mul(S::load(weight.as_ptr().add(at)))
                .store(out.as_mut_ptr().add(at));
        }
    }
    for at in whole..row.len() {
        out[at] = row[at] * scale * weight[at];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instructions;

    #[test]
    fn rows_are_scaled_to_unit_mean_square() {
        let x: Vec<f32> = (0..3 * 21).map(|index| (index as f32 * 0.7).sin() * 4.0).collect();
        let weight: Vec<f32> = (0..21).map(|index| 0.5 + index as f32 / 21.0).collect();
        for instructions in Instructions::available() {
            let machine = Machine {
                instructions,
                ..Machine::new(1)
            };
            let mut out = vec![0.0; x.len()];
            rms_norm(&machine, &x, &weight, 1e-5, &mut out);
            for (row, out) in x.chunks(21).zip(out.chunks(21)) {
                let mean: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 21.0;
                for (index, found) in out.iter().enumerate() {
                    let expected = f64::from(row[index]) / (mean + 1e-5).sqrt() * f64::from(weight[index]);
                    assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }
}
