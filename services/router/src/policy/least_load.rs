//! The worker with the least to do: its sequences, since each slows every step of the others; the prefill ahead, since that
//! delays the first token; and the KV in use, which costs nothing while there is plenty and much where sequences would
//! soon be preempted for it.

use super::{Candidate, Choice, Policy};
use crate::queue::Entry;

/// Prompt tokens that weigh as much as a running sequence: about what one step takes in.
const PREFILL_PER_SEQUENCE: f64 = 512.0;
/// Steepness of the KV term: half a sequence at half full, thirteen at nine tenths squared again.
const KV_WEIGHT: f64 = 4.0;

#[derive(Debug)]
pub(super) struct LeastLoad;

impl Policy for LeastLoad {
    fn choose(&mut self, _entry: &Entry, candidates: &[Candidate]) -> Option<Choice> {
        least(candidates, load).map(Choice::of)
    }
}

/// Returns the candidate for which `cost` is least; the first of equal ones.
pub(super) fn least(candidates: &[Candidate], cost: impl Fn(&Candidate) -> f64) -> Option<&Candidate> {
    candidates.iter().min_by(|one, other| cost(one).total_cmp(&cost(other)))
}

/// Returns what a worker has to do, in sequences.
#[expect(clippy::cast_precision_loss, reason = "weights, not counts")]
pub(super) fn load(candidate: &Candidate) -> f64 {
    let prefill = candidate.pending_prefill_tokens as f64 / PREFILL_PER_SEQUENCE;
    let kv = if candidate.kv_budget_bytes == 0 {
        0.0
    } else {
        (candidate.kv_used_bytes as f64 / candidate.kv_budget_bytes as f64).min(0.999)
    };
    f64::from(candidate.in_flight) + prefill + KV_WEIGHT * kv.powi(4) / (1.0 - kv)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{candidate, entry};
    use super::*;

    fn chosen(candidates: &[Candidate]) -> usize {
        LeastLoad.choose(&entry(), candidates).unwrap().worker.0
    }

    #[test]
    fn the_least_loaded_worker_is_chosen() {
        assert_eq!(chosen(&[candidate(0, 2, 0), candidate(1, 1, 500)]), 1);
        assert_eq!(chosen(&[candidate(0, 1, 500), candidate(1, 1, 20)]), 1);
        assert_eq!(chosen(&[candidate(0, 1, 20), candidate(1, 1, 20)]), 0);
    }

    #[test]
    fn kv_counts_for_little_while_there_is_plenty_and_for_much_when_it_runs_out() {
        let with_kv = |worker, in_flight, kv_used_bytes| Candidate {
            kv_used_bytes,
            kv_budget_bytes: 1000,
            ..candidate(worker, in_flight, 0)
        };
        assert_eq!(chosen(&[with_kv(0, 3, 500), with_kv(1, 4, 0)]), 0);
        assert_eq!(chosen(&[with_kv(0, 3, 950), with_kv(1, 20, 300)]), 1);
        let rise = |from: u64| load(&with_kv(0, 0, from + 100)) - load(&with_kv(0, 0, from));
        assert!(
            (0..8).all(|tenth| rise(100 * tenth) < rise(100 * tenth + 100)),
            "convex"
        );
    }
}
