//! Rows of activations as products want them.
#![expect(unsafe_code, reason = "calls code compiled for detected instructions")]

use std::sync::{Mutex, PoisonError};

use super::ByteInstructions;
use super::instructions::by_bytes;
use super::layout::RUN;
use super::vector::Vector;
use crate::Pool;

/// What becomes of activations before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Rounded to int8 in runs of 32: fast. For the error see [the module](crate::quantized).
    #[default]
    Int8,
    /// As they are.
    Float32,
}

impl Activations {
    /// Returns the name in the numerics fingerprint.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Float32 => "float32",
        }
    }
}

/// Elements that one thread prepares at a time.
const PIECE: usize = 128 * RUN;

/// Elements that are not worth waking a thread for.
const ALONE: usize = 2 * PIECE;

/// Rows of activations, prepared for all products with them.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// `[rows, inputs]`; empty where activations stay float32.
    pub(super) bytes: Vec<i8>,
    /// `[rows, runs]`: what a unit of `bytes` stands for, NaN where the run holds an infinity or a NaN.
    pub(super) scales: Vec<f32>,
    /// `[rows, runs]`: the sum of each run, in its units.
    pub(super) sums: Vec<f32>,
}

/// Rows to be prepared and where to.
struct Part<'a> {
    x: &'a [f32],
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Prepared {
    /// Prepares `x`, whose rows are multiples of [`RUN`] long.
    pub(super) fn fill(&mut self, instructions: ByteInstructions, pool: &Pool, x: &[f32], activations: Activations) {
        assert!(x.len().is_multiple_of(RUN));
        let runs = x.len() / RUN;
        self.sums.resize(runs, 0.0);
        match activations {
            Activations::Float32 => {
                let runs = x.as_chunks::<RUN>().0;
                self.sums.iter_mut().zip(runs).for_each(|(sum, run)| *sum = sum_of(run));
            }
            Activations::Int8 => {
                self.bytes.resize(x.len(), 0);
                self.scales.resize(runs, 0.0);
                self.round(instructions, pool, x);
            }
        }
    }

    fn round(&mut self, instructions: ByteInstructions, pool: &Pool, x: &[f32]) {
        if x.len() <= ALONE {
            return round_runs(instructions, x, &mut self.bytes, &mut self.scales, &mut self.sums);
        }
        let pieces = x.chunks(PIECE).zip(self.bytes.chunks_mut(PIECE));
        let units = self
            .scales
            .chunks_mut(PIECE / RUN)
            .zip(self.sums.chunks_mut(PIECE / RUN));
        let parts: Vec<_> = pieces
            .zip(units)
            .map(|((x, bytes), (scales, sums))| Mutex::new(Part { x, bytes, scales, sums }))
            .collect();
        pool.run(parts.len(), &|task| {
            let mut part = parts[task].lock().unwrap_or_else(PoisonError::into_inner);
            let Part { x, bytes, scales, sums } = &mut *part;
            round_runs(instructions, x, bytes, scales, sums);
        });
    }
}

by_bytes! {
    /// Rounds every run of `x`.
    fn round_runs = round(x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [f32])
}

#[inline(always)]
fn round<V: Vector>(x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let runs = x.as_chunks::<RUN>().0.iter().zip(bytes.as_chunks_mut::<RUN>().0);
    let units = scales.iter_mut().zip(sums);
    for ((x, bytes), (scale, sum)) in runs.zip(units) {
        (*scale, *sum) = round_run(x, bytes);
    }
}

/// Adding and subtracting this rounds a small number to the nearest whole one, ties to even.
const ROUNDING: f32 = 12_582_912.0;

/// Returns the unit and the sum in units.
#[inline(always)]
fn round_run(x: &[f32; RUN], bytes: &mut [i8; RUN]) -> (f32, f32) {
    // As whole numbers, magnitudes are in the floats' order, and infinity and NaN above all others.
    let largest = x
        .iter()
        .fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let magnitude = f32::from_bits(largest);
    let inverse = 127.0 / magnitude;
    if !magnitude.is_finite() || !inverse.is_finite() {
        bytes.fill(0);
        // Below 4e-37 the inverse is infinite: that is zero here.
        let unit = if magnitude.is_finite() { 0.0 } else { f32::NAN };
        return (unit, 0.0);
    }
    let mut sum = 0;
    for (byte, value) in bytes.iter_mut().zip(x) {
        let rounded = (value * inverse + ROUNDING).to_bits().cast_signed() - ROUNDING.to_bits().cast_signed();
        sum += rounded;
        #[expect(clippy::cast_possible_truncation, reason = "from -127 to 127")]
        let whole = rounded as i8;
        *byte = whole;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^12")]
    let sum = sum as f32;
    (magnitude / 127.0, sum)
}

/// Eight partial sums, then halves of halves.
fn sum_of(run: &[f32; RUN]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for eight in run.as_chunks::<8>().0 {
        lanes.iter_mut().zip(eight).for_each(|(lane, value)| *lane += value);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_rounded_to_the_nearest_unit() {
        let x: [f32; RUN] = std::array::from_fn(|index| (index as f32 * 0.7).sin() * 3.0);
        let mut bytes = [0; RUN];
        let (unit, sum) = round_run(&x, &mut bytes);
        for (value, byte) in x.iter().zip(bytes) {
            assert!(
                (value - f32::from(byte) * unit).abs() <= unit * 0.500_001,
                "{value} {byte}"
            );
        }
        assert_eq!(sum, bytes.iter().map(|byte| f32::from(*byte)).sum::<f32>());
        assert!(bytes.iter().any(|byte| byte.abs() == 127));
    }

    #[test]
    fn the_smallest_magnitudes_are_zero_and_the_largest_are_kept() {
        let mut bytes = [1; RUN];
        assert_eq!(round_run(&[1e-40; RUN], &mut bytes), (0.0, 0.0));
        assert_eq!(bytes, [0; RUN]);
        assert_eq!(round_run(&[0.0; RUN], &mut bytes), (0.0, 0.0));
        let (unit, sum) = round_run(&[-f32::MAX; RUN], &mut bytes);
        assert_eq!((bytes, sum), ([-127; RUN], -127.0 * 32.0));
        assert!((unit / f32::MAX * 127.0 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_shows_in_the_unit() {
        let mut bytes = [0; RUN];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; RUN];
            x[17] = value;
            assert!(round_run(&x, &mut bytes).0.is_nan());
        }
    }
}
