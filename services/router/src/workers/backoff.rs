//! How long to wait before a worker is tried again. Pure: the random number is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Lived this long, a worker is taken for sound, and its failures are forgotten.
pub(crate) const SOUND_AFTER: Duration = Duration::from_secs(60);

/// Returns the wait before the next try after `failures` in a row (1 for the first). Doubles from 0.1 s to 30 s; `random`,
/// uniform in [0, 1), takes up to half of it away, so that workers that fell together do not rise together.
pub(crate) fn delay(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    full.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_a_tenth_of_a_second_to_thirty() {
        let delays: Vec<_> = (1..=11).map(|failures| delay(failures, 0.0).as_millis()).collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        assert_eq!(delay(u32::MAX, 0.0), LONGEST);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        assert_eq!(delay(1, 1.0), Duration::from_millis(50));
        assert_eq!(delay(99, 0.5), Duration::from_millis(22_500));
    }
}
