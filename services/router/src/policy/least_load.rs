//! The worker with the fewest sequences, since every sequence slows each step of the others; of these the one with the
//! least prefill ahead, since that is what delays the first token.

use super::{Candidate, Policy, WorkerIndex};
use crate::queue::Entry;

#[derive(Debug)]
pub(super) struct LeastLoad;

impl Policy for LeastLoad {
    fn choose(&mut self, _entry: &Entry, candidates: &[Candidate]) -> Option<WorkerIndex> {
        candidates
            .iter()
            .min_by_key(|candidate| (candidate.in_flight, candidate.pending_prefill_tokens))
            .map(|candidate| candidate.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, entry};
    use super::*;

    #[test]
    fn the_least_loaded_worker_is_chosen() {
        let choose = |candidates: &[Candidate]| LeastLoad.choose(&entry(), candidates).unwrap().0;
        assert_eq!(choose(&[candidate(0, 2, 0), candidate(1, 1, 500)]), 1);
        assert_eq!(choose(&[candidate(0, 1, 500), candidate(1, 1, 20)]), 1);
        assert_eq!(choose(&[candidate(0, 1, 20), candidate(1, 1, 20)]), 0);
    }
}
