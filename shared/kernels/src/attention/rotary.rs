//! Angles of rotary position embedding by position.

/// Cosines and sines of every position.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    /// `[positions, half]`.
    cosines: Vec<f32>,
    /// `[positions, half]`.
    sines: Vec<f32>,
}

impl RotaryTable {
    /// `periods`: one for each pair of elements of a head: at position p a pair is turned by p / period.
    #[must_use]
    pub fn new(periods: &[f64], positions: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
        let angles = (0..positions).flat_map(|position| periods.iter().map(move |period| position as f64 / period));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the type that is computed with"
        )]
        let (cosines, sines) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        Self {
            half: periods.len(),
            cosines,
            sines,
        }
    }

    /// Multiplies every cosine and sine, as models do whose context was stretched.
    #[must_use]
    pub fn scaled(mut self, factor: f32) -> Self {
        for value in self.cosines.iter_mut().chain(&mut self.sines) {
            *value *= factor;
        }
        self
    }

    /// Elements of a head that are turned, the first ones.
    pub(crate) fn width(&self) -> usize {
        self.half * 2
    }

    /// Turns the pairs `(x[i], x[i + half])`; elements from [`width`](Self::width) on stay.
    #[inline(always)]
    pub(crate) fn rotate(&self, position: usize, x: &mut [f32]) {
        let angles = position * self.half..(position + 1) * self.half;
        let (cosines, sines) = (&self.cosines[angles.clone()], &self.sines[angles]);
        let (left, right) = x[..self.half * 2].split_at_mut(self.half);
        for index in 0..self.half {
            let (a, b) = (left[index], right[index]);
            left[index] = a * cosines[index] - b * sines[index];
            right[index] = b * cosines[index] + a * sines[index];
        }
    }
}
