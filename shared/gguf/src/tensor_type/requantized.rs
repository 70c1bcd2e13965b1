//! Types whose groups are smaller than MLX's smallest: two groups of 16 become one of 32 with wider levels. Often that
//! loses nothing; what it loses is measured.

use super::super_blocks::{q6_k_multiples, q6_k_scale};
use super::{Affine, Groups, TensorType};

/// How a type becomes floats exactly, and groups nearly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requantized {
    pub(crate) values: fn(block: &[u8], values: &mut [f32]),
    pub(crate) affine: Affine,
}

/// How far requantized values are from the source's, over a whole tensor. Nothing is estimated.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RequantizationError {
    /// The largest difference of a value: no value is further off.
    pub max_error: f64,
    /// Root mean square of the differences.
    pub rms_error: f64,
    /// The largest absolute value of the source, to compare with.
    pub largest_value: f64,
}

impl RequantizationError {
    /// Compares every value of `data`.
    pub(crate) fn measure(tensor_type: &TensorType, requantized: Requantized, data: &[u8]) -> Self {
        let mut groups = Groups::of(tensor_type, requantized.affine);
        let mut exact = vec![0.0; tensor_type.block_len];
        let mut stored = exact.clone();
        let (mut max_error, mut largest_value, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
        for block in data.chunks_exact(tensor_type.block_bytes) {
            (requantized.values)(block, &mut exact);
            (requantized.affine.unpack)(block, &mut groups);
            groups.values(requantized.affine.group_len, &mut stored);
            for (exact, stored) in exact.iter().zip(&stored) {
                let error = (f64::from(*exact) - f64::from(*stored)).abs();
                max_error = max_error.max(error);
                squares += error * error;
                largest_value = largest_value.max(f64::from(exact.abs()));
            }
        }
        let values = data.len() / tensor_type.block_bytes * tensor_type.block_len;
        Self {
            max_error,
            rms_error: (squares / values.max(1) as f64).sqrt(),
            largest_value,
        }
    }

    /// Whether no value differs.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.max_error == 0.0
    }
}

/// Levels of 8 bits for each 32 values. A group whose multiples lie on a grid of at most 256 points is exact; any other
/// is spread over 256 points between its ends, so that a value is off by half a step at most.
pub(super) fn q6_k(block: &[u8], groups: &mut Groups) {
    let scale = q6_k_scale(block);
    let multiples = q6_k_multiples(block);
    let outputs = groups.levels.chunks_exact_mut(32);
    for (group, (multiples, levels)) in multiples.chunks_exact(32).zip(outputs).enumerate() {
        let low = multiples.iter().copied().min().unwrap_or_default();
        let above = |multiple: &i32| multiple.abs_diff(low);
        let range = multiples.iter().map(above).max().unwrap_or_default();
        let grid = multiples.iter().map(above).fold(0, gcd).max(1);
        let (numerator, denominator) = if range / grid <= 255 { (grid, 1) } else { (range, 255) };
        groups.scales[group] = scale * (numerator as f32 / denominator as f32);
        groups.biases[group] = scale * low as f32;
        for (level, multiple) in levels.iter_mut().zip(multiples) {
            let steps = (above(multiple) * denominator + numerator / 2) / numerator;
            *level = u8::try_from(steps).unwrap_or(u8::MAX);
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
