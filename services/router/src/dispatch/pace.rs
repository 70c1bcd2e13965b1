//! How fast a queue empties, for telling refused clients when to try again. Pure.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Before anything is known.
const FIRST: Duration = Duration::from_secs(1);
/// Weight of the newest interval is one in this many.
const WEIGHT: u32 = 8;

/// Moving average of the time between departures.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    interval: Option<Duration>,
}

impl Pace {
    pub(super) fn departed(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            let newest = now.saturating_duration_since(last);
            let average = self
                .interval
                .map_or(newest, |old| (old * (WEIGHT - 1) + newest) / WEIGHT);
            self.interval = Some(average.min(LONGEST));
        }
    }

    /// Returns when a place should be free again.
    pub(super) fn retry_after(&self) -> Duration {
        sensible(self.interval.unwrap_or(FIRST))
    }
}

/// Returns the delay nearest to `delay` that a client can be asked to keep.
pub(super) fn sensible(delay: Duration) -> Duration {
    delay.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_the_usual_time_between_departures() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.retry_after(), FIRST);
        for seconds in 0..20 {
            pace.departed(start + Duration::from_secs(2 * seconds));
        }
        assert_eq!(pace.retry_after(), Duration::from_secs(2));
        pace.departed(start + Duration::from_secs(3600));
        assert!(pace.retry_after() <= LONGEST);
    }
}
