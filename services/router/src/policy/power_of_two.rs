//! Of two workers drawn at random the one with less to do (Mitzenmacher, 2001): nearly as even as the least loaded one, and
//! no herd where several routers see the same figures.

use super::least_load::{least, load};
use super::{Candidate, Choice, Policy};
use crate::queue::Entry;

/// Draws from a sequence that its seed decides (SplitMix64).
#[derive(Debug)]
pub(super) struct PowerOfTwo {
    state: u64,
}

impl PowerOfTwo {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns a number below `count`, which is above 0.
    fn below(&mut self, count: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let scaled = (u128::from(mixed) * count as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }
}

impl Policy for PowerOfTwo {
    fn choose(&mut self, _entry: &Entry, candidates: &[Candidate]) -> Option<Choice> {
        if candidates.len() < 2 {
            return candidates.first().map(Choice::of);
        }
        let first = self.below(candidates.len());
        let second = self.below(candidates.len() - 1);
        let second = second + usize::from(second >= first);
        let two = [*candidates.get(first)?, *candidates.get(second)?];
        least(&two, load).map(Choice::of)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, entry};
    use super::*;

    #[test]
    fn the_most_loaded_of_all_is_never_chosen_and_all_others_are() {
        let mut policy = PowerOfTwo::new(7);
        let all: Vec<_> = (0..5)
            .map(|worker| candidate(worker, u32::try_from(worker).unwrap(), 0))
            .collect();
        let mut counts = [0; 5];
        for _ in 0..1000 {
            counts[policy.choose(&entry(), &all).unwrap().worker.0] += 1;
        }
        assert_eq!(counts[4], 0);
        assert!(counts[..4].iter().all(|count| *count > 0), "{counts:?}");
        assert!(counts[..4].is_sorted_by(|one, other| one > other), "{counts:?}");
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let all: Vec<_> = (0..9).map(|worker| candidate(worker, 0, 0)).collect();
        let choices = |seed| {
            let mut policy = PowerOfTwo::new(seed);
            (0..50)
                .map(|_| policy.choose(&entry(), &all).unwrap().worker.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(choices(3), choices(3));
        assert_ne!(choices(3), choices(4));
    }
}
