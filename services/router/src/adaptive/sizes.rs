//! How long steps take by the number of sequences in them. Pure.

use std::ops::RangeInclusive;

use crate::workers::Step;

/// What of a measurement's weight is left a step later.
const MEMORY: f64 = 0.997;
/// A size's mean follows with at least one part in this many.
const MOST_WEIGHT: f64 = 48.0;
/// A group's weight that is enough to judge by.
const ENOUGH: f64 = 8.0;
/// A step is not looked at when prefill takes more than this part of it.
const MOST_PREFILL: f64 = 0.5;

/// Measured steps by size, the newest weighing most.
#[derive(Debug)]
pub(super) struct Sizes {
    /// By number of sequences, from 0.
    sizes: Vec<Size>,
    prefill: Prefill,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    weight: f64,
    mean: f64,
    /// Weighted mean of squared differences.
    variance: f64,
}

impl Sizes {
    pub(super) fn new(most: u32) -> Self {
        Self {
            sizes: vec![Size::default(); most as usize + 1],
            prefill: Prefill::default(),
        }
    }

    /// Returns the sizes that stand for a limit, and those that it is compared with.
    pub(super) fn ranges(limit: u32) -> (RangeInclusive<u32>, RangeInclusive<u32>) {
        let large = (limit * 9 / 10 + 1).min(limit)..=limit;
        let small = (limit * 3 / 5).max(1)..=(limit * 4 / 5).max(1);
        (large, small)
    }

    /// Takes a step in and returns its seconds without prefill; `None` where it says nothing about its size.
    pub(super) fn add(&mut self, step: Step) -> Option<f64> {
        let seconds = step.duration.as_secs_f64();
        let prefill = f64::from(step.tokens.saturating_sub(step.sequences));
        let extra = self.prefill.seconds(step.sequences, prefill, seconds);
        if step.sequences == 0 || seconds <= 0.0 || extra > seconds * MOST_PREFILL {
            return None;
        }
        let seconds = seconds - extra;
        for size in &mut self.sizes {
            size.weight *= MEMORY;
        }
        let size = self.sizes.get_mut(step.sequences as usize)?;
        size.weight = (size.weight + 1.0).min(MOST_WEIGHT);
        let difference = seconds - size.mean;
        let part = 1.0 / size.weight.max(1.0);
        size.mean += part * difference;
        size.variance = (1.0 - part) * (size.variance + part * difference * difference);
        Some(seconds)
    }

    /// Forgets all steps.
    pub(super) fn forget(&mut self) {
        self.sizes.fill(Size::default());
    }

    pub(super) fn group(&self, range: RangeInclusive<u32>) -> Group {
        let mut group = Group::default();
        for size in range {
            let Some(of) = self
                .sizes
                .get(size as usize)
                .filter(|of| of.weight > 0.0 && of.mean > 0.0)
            else {
                continue;
            };
            group.weight += of.weight;
            group.log_size += of.weight * f64::from(size).ln();
            group.log_seconds += of.weight * of.mean.ln();
            group.variance += of.weight * of.variance / (of.mean * of.mean);
        }
        group
    }
}

/// Steps of neighbouring sizes together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Group {
    weight: f64,
    log_size: f64,
    log_seconds: f64,
    variance: f64,
}

impl Group {
    pub(super) fn is_enough(&self) -> bool {
        self.weight >= ENOUGH
    }

    pub(super) fn log_size(&self) -> f64 {
        self.log_size / self.weight
    }

    pub(super) fn log_seconds(&self) -> f64 {
        self.log_seconds / self.weight
    }

    pub(super) fn seconds(&self) -> f64 {
        self.log_seconds().exp()
    }

    /// Returns the standard error of the seconds' logarithm.
    pub(super) fn error(&self) -> f64 {
        (self.variance / self.weight).sqrt() / self.weight.sqrt()
    }
}

/// What a prompt token adds to a step, by recursive least squares over steps: a constant, so much for each sequence, so much
/// for each prompt token.
#[derive(Debug)]
struct Prefill {
    factors: [f64; 3],
    covariance: [[f64; 3]; 3],
}

/// Sequences and prompt tokens count in these units, so that all three factors are of one size.
const UNITS: [f64; 2] = [10.0, 100.0];
/// What of a step's weight is left a step later.
const FORGETTING: f64 = 0.99;
/// Against a covariance that grows without bound while nothing varies.
const MOST_COVARIANCE: f64 = 1e4;

impl Default for Prefill {
    fn default() -> Self {
        let mut covariance = [[0.0; 3]; 3];
        (0..3).for_each(|index| covariance[index][index] = 100.0);
        Self {
            factors: [0.0; 3],
            covariance,
        }
    }
}

impl Prefill {
    /// Takes a step in and returns how many of its seconds were prefill.
    fn seconds(&mut self, sequences: u32, prompt_tokens: f64, seconds: f64) -> f64 {
        let x = [1.0, f64::from(sequences) / UNITS[0], prompt_tokens / UNITS[1]];
        let dot = |row: &[f64; 3]| row.iter().zip(x).map(|(one, other)| one * other).sum::<f64>();
        let px = [0, 1, 2].map(|row| dot(&self.covariance[row]));
        let scale = FORGETTING + dot(&px);
        let error = seconds - dot(&self.factors);
        for (factor, px) in self.factors.iter_mut().zip(px) {
            *factor += px / scale * error;
        }
        let trace: f64 = (0..3).map(|index| self.covariance[index][index]).sum();
        let forgetting = if trace < MOST_COVARIANCE { FORGETTING } else { 1.0 };
        for (row, one) in self.covariance.iter_mut().zip(px) {
            for (entry, other) in row.iter_mut().zip(px) {
                *entry = (*entry - one * other / scale) / forgetting;
            }
        }
        (self.factors[2] * x[2]).clamp(0.0, seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(sequences: u32, prompt_tokens: u32) -> Step {
        let micros = 4000 + 200 * sequences + 50 * prompt_tokens;
        Step {
            sequences,
            tokens: sequences + prompt_tokens,
            duration: Duration::from_micros(micros.into()),
        }
    }

    #[test]
    fn prefill_is_taken_off_even_where_no_step_is_without_it() {
        let mut sizes = Sizes::new(40);
        let mut last = None;
        for index in 0..200 {
            last = sizes.add(step(10 + index % 7, 5 + index % 11)).or(last);
        }
        let sequences = f64::from(10 + 199 % 7);
        let expected = 0.004 + 0.0002 * sequences;
        assert!(
            (last.unwrap() - expected).abs() < 0.0002,
            "{last:?} instead of {expected}"
        );
    }

    #[test]
    fn a_limit_is_compared_with_what_is_a_good_fifth_smaller() {
        assert_eq!(Sizes::ranges(50), (46..=50, 30..=40));
        assert_eq!(Sizes::ranges(5), (5..=5, 3..=4));
        assert_eq!(Sizes::ranges(2), (2..=2, 1..=1));
    }

    #[test]
    fn what_was_measured_long_ago_is_not_enough() {
        let mut sizes = Sizes::new(40);
        for _ in 0..40 {
            sizes.add(step(8, 0));
        }
        assert!(sizes.group(6..=8).is_enough());
        for _ in 0..1000 {
            sizes.add(step(20, 0));
        }
        assert!(!sizes.group(6..=8).is_enough());
    }
}
