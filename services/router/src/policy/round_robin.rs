//! One worker after the other, whatever they have.

use super::{Candidate, Choice, Policy, WorkerIndex};
use crate::queue::Entry;

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    last: Option<WorkerIndex>,
}

impl Policy for RoundRobin {
    fn choose(&mut self, _entry: &Entry, candidates: &[Candidate]) -> Option<Choice> {
        let next = candidates
            .iter()
            .find(|candidate| self.last.is_none_or(|last| candidate.worker > last))
            .or(candidates.first())?;
        self.last = Some(next.worker);
        Some(Choice::of(next))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, entry};
    use super::*;

    #[test]
    fn workers_take_turns_and_a_missing_one_is_passed_over() {
        let mut policy = RoundRobin::default();
        let all = [candidate(0, 9, 0), candidate(1, 0, 0), candidate(2, 0, 0)];
        let mut choose = |candidates: &[Candidate]| policy.choose(&entry(), candidates).unwrap().worker.0;
        assert_eq!([choose(&all), choose(&all), choose(&all), choose(&all)], [0, 1, 2, 0]);
        assert_eq!(choose(&[all[0], all[2]]), 2);
        assert_eq!(choose(&all[..2]), 0);
    }
}
