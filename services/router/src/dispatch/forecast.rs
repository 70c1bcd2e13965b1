//! When a sequence can start at the earliest: what runs is expected to end after as many tokens as answers had lately, at
//! the pace that its worker's steps had lately, and what waits ahead takes the places that get free. Pure.
//!
//! A bound, not an estimate: a request is refused by it. So prefill, and whoever comes later, count as nothing; a worker
//! that was not measured yet counts as free; and the scatter of answers' lengths is taken off.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Standard deviations that are taken off. One in forty starts before two of them.
const CAUTION: f64 = 2.0;

/// A place on a worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Until it is free.
    pub(super) free_in: Duration,
    /// A step of its worker: the time of one token. Zero where that was not measured.
    pub(super) step: Duration,
}

/// A sequence that goes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ahead {
    /// Tokens it is expected to generate.
    pub(super) tokens: f64,
    /// It leaves without having started after this.
    pub(super) time_left: Option<Duration>,
}

/// Returns how long it takes at least until somebody behind `ahead` has a place. `scatter`: standard deviation of an
/// answer's length as a part of its mean. Without places nothing is known, and the answer is zero.
pub(super) fn wait(places: &[Place], ahead: impl IntoIterator<Item = Ahead>, scatter: f64) -> Duration {
    let mut free: BinaryHeap<_> = places
        .iter()
        .map(|place| Reverse((place.free_in, place.step)))
        .collect();
    let mut ends = 0_u32;
    for sequence in ahead {
        let Some(mut first) = free.peek_mut() else {
            return Duration::ZERO;
        };
        let Reverse((at, step)) = *first;
        if sequence.time_left.is_none_or(|left| at <= left) {
            ends += u32::from(!at.is_zero());
            let runs = Duration::try_from_secs_f64(step.as_secs_f64() * sequence.tokens).unwrap_or_default();
            *first = Reverse((at.saturating_add(runs), step));
        }
    }
    let Some(Reverse((at, _))) = free.peek() else {
        return Duration::ZERO;
    };
    // The mean of this many lengths scatters less than each.
    let certain = 1.0 - CAUTION * scatter / f64::from(ends + 1).sqrt();
    at.mul_f64(certain.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn place(free_in: u32) -> Place {
        Place {
            free_in: free_in * MS,
            step: 10 * MS,
        }
    }

    fn ahead(tokens: f64) -> Ahead {
        Ahead {
            tokens,
            time_left: None,
        }
    }

    #[test]
    fn a_free_place_means_no_wait() {
        assert_eq!(wait(&[place(500), place(0)], [], 0.0), Duration::ZERO);
        assert_eq!(wait(&[], [ahead(5.0)], 0.0), Duration::ZERO, "nothing is known");
    }

    #[test]
    fn who_waits_ahead_takes_the_places_that_get_free_first() {
        let places = [place(500), place(300)];
        assert_eq!(wait(&places, [], 0.0), 300 * MS);
        assert_eq!(wait(&places, [ahead(5.0)], 0.0), 350 * MS);
        assert_eq!(wait(&places, [ahead(50.0)], 0.0), 500 * MS);
        assert_eq!(wait(&places, [ahead(50.0), ahead(10.0)], 0.0), 600 * MS);
    }

    #[test]
    fn who_expires_before_its_turn_takes_no_place() {
        let impatient = Ahead {
            time_left: Some(299 * MS),
            ..ahead(1000.0)
        };
        assert_eq!(wait(&[place(300)], [impatient], 0.0), 300 * MS);
    }

    #[test]
    fn scatter_is_taken_off_and_many_ends_scatter_less() {
        assert_eq!(wait(&[place(1000)], [], 0.5), Duration::ZERO);
        let fifteen = std::iter::repeat_n(ahead(10.0), 15);
        assert_eq!(wait(&[place(100)], fifteen, 0.5), 1600 * MS * 3 / 4);
    }

    proptest! {
        #[test]
        fn more_ahead_never_shortens_the_wait_and_more_places_never_lengthen_it(
            places in proptest::collection::vec(0..1000_u32, 1..20),
            lengths in proptest::collection::vec(0..200_u32, 0..40),
        ) {
            let places: Vec<_> = places.into_iter().map(place).collect();
            let ahead = || lengths.iter().map(|tokens| super::tests::ahead(f64::from(*tokens)));
            let all = wait(&places, ahead(), 0.0);
            prop_assert!(wait(&places, ahead().skip(1), 0.0) <= all);
            let more = [places.as_slice(), &[place(700)]].concat();
            prop_assert!(wait(&more, ahead(), 0.0) <= all);
        }
    }
}
