//! How long the next step will take: `base + decodes × per_decode + prefill_tokens × per_prefill`, fitted to the measured
//! steps by least squares in which older ones fade. Where nothing was measured yet, a careful guess holds the place.

use std::time::Duration;

use crate::scheduler::StepShape;

const TERMS: usize = 3;
/// Seconds of base, of 16 decodes and of 256 prefilled tokens before anything is measured.
const GUESS: [f64; TERMS] = [0.05, 0.16, 1.28];
/// Brings the three terms to about one size.
const SCALE: [f64; TERMS] = [1.0, 1.0 / 16.0, 1.0 / 256.0];
/// What the guess weighs, counted in measured steps.
const GUESS_WEIGHT: f64 = 1e-4;
/// What a measured step's weight is multiplied by with each later one.
const FADE: f64 = 0.98;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// The fit.
#[derive(Debug, Clone)]
pub struct StepEstimate {
    moments: [[f64; TERMS]; TERMS],
    products: [f64; TERMS],
    coefficients: [f64; TERMS],
}

impl Default for StepEstimate {
    fn default() -> Self {
        Self {
            moments: [[0.0; TERMS]; TERMS],
            products: [0.0; TERMS],
            coefficients: GUESS,
        }
    }
}

impl StepEstimate {
    /// Learns from one measured step.
    pub fn observe(&mut self, shape: StepShape, duration: Duration) {
        let terms = terms(shape);
        let seconds = duration.as_secs_f64();
        for (row, term) in terms.iter().enumerate() {
            for (column, other) in terms.iter().enumerate() {
                self.moments[row][column] = self.moments[row][column] * FADE + term * other;
            }
            self.products[row] = self.products[row] * FADE + term * seconds;
        }
        self.coefficients = self.fit();
    }

    /// Returns whether anything was measured, so that [`Self::expect`] is more than a guess.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.moments[0][0] > 0.0
    }

    /// Returns how long a step of this shape is expected to take: never less than a millisecond, never more than an hour.
    #[must_use]
    pub fn expect(&self, shape: StepShape) -> Duration {
        let seconds: f64 = terms(shape).iter().zip(self.coefficients).map(|(x, c)| x * c).sum();
        Duration::try_from_secs_f64(seconds.max(0.0))
            .unwrap_or(LONGEST)
            .clamp(SHORTEST, LONGEST)
    }

    /// Returns how many prefilled tokens are expected to take no longer than `duration`, beside whatever else a step does.
    #[must_use]
    pub fn prefill_within(&self, duration: Duration) -> u32 {
        let per_token = self.coefficients[2] * SCALE[2];
        if per_token <= 0.0 {
            return u32::MAX;
        }
        let tokens = (duration.as_secs_f64() / per_token).min(f64::from(u32::MAX));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and u32::MAX"
        )]
        let tokens = tokens as u32;
        tokens
    }

    /// Solves the normal equations. The guess's weight on the diagonal keeps them solvable.
    fn fit(&self) -> [f64; TERMS] {
        let mut left = self.moments;
        let mut right = self.products;
        for term in 0..TERMS {
            left[term][term] += GUESS_WEIGHT;
            right[term] += GUESS_WEIGHT * GUESS[term];
        }
        for pivot in 0..TERMS {
            let (pivot_row, pivot_right) = (left[pivot], right[pivot]);
            for row in pivot + 1..TERMS {
                let factor = left[row][pivot] / pivot_row[pivot];
                for (cell, above) in left[row].iter_mut().zip(pivot_row) {
                    *cell -= factor * above;
                }
                right[row] -= factor * pivot_right;
            }
        }
        let mut solution = [0.0; TERMS];
        for row in (0..TERMS).rev() {
            let known: f64 = (row + 1..TERMS)
                .map(|column| left[row][column] * solution[column])
                .sum();
            solution[row] = (right[row] - known) / left[row][row];
        }
        solution
    }
}

fn terms(shape: StepShape) -> [f64; TERMS] {
    [
        SCALE[0],
        f64::from(shape.decodes) * SCALE[1],
        f64::from(shape.prefill_tokens) * SCALE[2],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(decodes: u32, prefill_tokens: u32) -> StepShape {
        StepShape {
            decodes,
            prefill_tokens,
        }
    }

    fn truth(shape: StepShape) -> Duration {
        Duration::from_micros(4_000 + 700 * u64::from(shape.decodes) + 300 * u64::from(shape.prefill_tokens))
    }

    fn close(estimate: &StepEstimate, shape: StepShape, expected: Duration) {
        let ratio = estimate.expect(shape).as_secs_f64() / expected.as_secs_f64();
        assert!((0.8..1.25).contains(&ratio), "{shape:?}: {ratio} of the true duration");
    }

    #[test]
    fn a_linear_step_time_is_learnt() {
        let mut estimate = StepEstimate::default();
        for round in 0..200 {
            let shape = shape(round % 17, (round * 37) % 256);
            estimate.observe(shape, truth(shape));
        }
        for shape in [shape(1, 0), shape(16, 0), shape(0, 128), shape(8, 500)] {
            close(&estimate, shape, truth(shape));
        }
    }

    #[test]
    fn one_shape_alone_is_learnt_after_a_few_steps() {
        let mut estimate = StepEstimate::default();
        for _ in 0..5 {
            estimate.observe(shape(16, 0), Duration::from_secs(2));
        }
        close(&estimate, shape(16, 0), Duration::from_secs(2));
    }

    #[test]
    fn a_change_of_speed_is_followed() {
        let mut estimate = StepEstimate::default();
        for seconds in [1, 8] {
            for _ in 0..300 {
                estimate.observe(shape(4, 0), Duration::from_secs(seconds));
            }
            close(&estimate, shape(4, 0), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn decodes_alone_do_not_make_the_first_prefill_look_free() {
        let mut estimate = StepEstimate::default();
        for _ in 0..1000 {
            estimate.observe(shape(1, 0), Duration::from_micros(10));
        }
        assert!(estimate.expect(shape(1, 512)) > Duration::from_secs(1));
    }

    #[test]
    fn no_estimate_is_zero_or_beyond_an_hour() {
        let mut estimate = StepEstimate::default();
        assert!(estimate.expect(shape(0, 0)) >= SHORTEST);
        for _ in 0..100 {
            estimate.observe(shape(1, 0), Duration::ZERO);
            estimate.observe(shape(16, 0), Duration::from_secs(100_000));
        }
        assert!(estimate.expect(shape(1, 0)) >= SHORTEST);
        assert_eq!(estimate.expect(shape(u32::MAX, u32::MAX)), LONGEST);
    }
}
