//! A mean that follows its values. Pure.

/// Weight of the newest value.
const WEIGHT: f64 = 1.0 / 32.0;
/// Below this many values nothing is said.
const ENOUGH: u32 = 4;

/// Exponentially weighted mean and standard deviation; a plain mean until there are more values than the weight remembers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moving {
    mean: f64,
    variance: f64,
    count: u32,
}

impl Moving {
    pub(super) fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(self.count));
        let difference = value - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }

    /// Returns the mean, once enough values are known.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count >= ENOUGH).then_some(self.mean)
    }

    /// Returns the standard deviation as a part of the mean; 0 where the mean is.
    pub(super) fn relative_deviation(&self) -> f64 {
        if self.mean > 0.0 {
            self.variance.sqrt() / self.mean
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_and_the_deviation_shrinks_with_it() {
        let mut moving = Moving::default();
        (0..3).for_each(|_| moving.add(10.0));
        assert_eq!(moving.mean(), None, "three values say nothing yet");
        (0..29).for_each(|_| moving.add(10.0));
        assert_eq!(moving.mean(), Some(10.0));
        assert!(moving.relative_deviation() < 1e-9);
        (0..200).for_each(|_| moving.add(20.0));
        assert!((moving.mean().unwrap() - 20.0).abs() < 0.1);
        assert!(moving.relative_deviation() < 0.1);
    }

    #[test]
    fn alternating_values_show_as_deviation() {
        let mut moving = Moving::default();
        (0..1000).for_each(|step| moving.add(if step % 2 == 0 { 5.0 } else { 15.0 }));
        assert!((moving.mean().unwrap() - 10.0).abs() < 0.3);
        assert!((moving.relative_deviation() - 0.5).abs() < 0.05);
    }
}
