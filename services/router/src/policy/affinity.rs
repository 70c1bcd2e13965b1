//! The worker that has the prompt's beginning in its prefix cache, unless it has so much more to do that another is quicker
//! all the same; without any such worker, the least loaded one.
//!
//! A cached token is weighed against load, so that a worker is given up for another only when the difference outweighs all
//! that is cached there; the other then has the beginning too, and the two share what comes. Small differences move
//! nothing, so no prefix wanders to and fro.

mod blocks;

use std::collections::BTreeMap;

use kr_contract::BlockHash;

use super::least_load::{least, load};
use super::{Candidate, Choice, Policy, WorkerIndex};
use crate::queue::Entry;
use blocks::Recent;

/// Cached prompt tokens that outweigh one sequence more.
const TOKENS_PER_SEQUENCE: f64 = 64.0;
/// More sequences than this are outweighed by no cache.
const MOST_SEQUENCES: f64 = 8.0;
/// Blocks remembered of each worker; one that says more is believed for its newest.
const MOST_BLOCKS: usize = 1 << 16;
/// Blocks remembered of what was sent to each worker and not reported yet.
const MOST_EXPECTED: usize = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct Affinity {
    workers: BTreeMap<WorkerIndex, Cache>,
}

#[derive(Debug)]
struct Cache {
    reported: Recent,
    /// Of sequences on their way; counts only with a worker that reports blocks at all.
    expected: Recent,
    reports: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            reported: Recent::new(MOST_BLOCKS),
            expected: Recent::new(MOST_EXPECTED),
            reports: false,
        }
    }
}

impl Cache {
    /// Returns how many blocks of a prompt's beginning are there.
    fn hits(&self, blocks: &[BlockHash]) -> usize {
        let has = |block: &&BlockHash| self.reported.contains(block) || self.reports && self.expected.contains(block);
        blocks.iter().take_while(has).count()
    }
}

impl Affinity {
    fn cached_tokens(&self, entry: &Entry, worker: WorkerIndex) -> u32 {
        let hits = self.workers.get(&worker).map_or(0, |cache| cache.hits(&entry.blocks));
        u32::try_from(hits)
            .unwrap_or(u32::MAX)
            .saturating_mul(entry.block_tokens)
    }
}

impl Policy for Affinity {
    fn choose(&mut self, entry: &Entry, candidates: &[Candidate]) -> Option<Choice> {
        let cached = |candidate: &Candidate| self.cached_tokens(entry, candidate.worker);
        let gain = |tokens: u32| (f64::from(tokens) / TOKENS_PER_SEQUENCE).min(MOST_SEQUENCES);
        let chosen = least(candidates, |candidate| load(candidate) - gain(cached(candidate)))?;
        Some(Choice {
            worker: chosen.worker,
            cached_tokens: cached(chosen),
            most_cached_tokens: candidates.iter().map(cached).max().unwrap_or(0),
        })
    }

    fn wants_blocks(&self) -> bool {
        true
    }

    fn sent(&mut self, entry: &Entry, worker: WorkerIndex) {
        let cache = self.workers.entry(worker).or_default();
        entry.blocks.iter().for_each(|block| cache.expected.insert(*block));
    }

    fn blocks(&mut self, worker: WorkerIndex, added: &[BlockHash], evicted: &[BlockHash]) {
        if added.is_empty() && evicted.is_empty() {
            return;
        }
        let cache = self.workers.entry(worker).or_default();
        cache.reports = true;
        for block in evicted {
            cache.reported.remove(block);
            cache.expected.remove(block);
        }
        for block in added {
            cache.expected.remove(block);
            cache.reported.insert(*block);
        }
    }

    fn lost(&mut self, worker: WorkerIndex) {
        self.workers.remove(&worker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{candidate, entry};
    use super::*;

    /// A request whose prompt is that many blocks of one family.
    fn request(family: u8, blocks: u8) -> Entry {
        let blocks: Arc<[_]> = (0..blocks).map(|number| block(family, number)).collect();
        Entry {
            blocks,
            block_tokens: 16,
            ..entry()
        }
    }

    fn block(family: u8, number: u8) -> BlockHash {
        let mut name = [family; 16];
        name[0] = number;
        BlockHash(name)
    }

    fn blocks(family: u8, count: u8) -> Vec<BlockHash> {
        (0..count).map(|number| block(family, number)).collect()
    }

    fn choose(policy: &mut Affinity, request: &Entry, loads: &[u32]) -> Choice {
        let candidates: Vec<_> = loads
            .iter()
            .enumerate()
            .map(|(worker, load)| candidate(worker, *load, 0))
            .collect();
        policy.choose(request, &candidates).unwrap()
    }

    #[test]
    fn a_prompt_goes_where_its_beginning_is() {
        let mut policy = Affinity::default();
        policy.blocks(WorkerIndex(1), &blocks(7, 10), &[]);
        let choice = choose(&mut policy, &request(7, 20), &[0, 2, 0]);
        assert_eq!(
            (choice.worker.0, choice.cached_tokens, choice.most_cached_tokens),
            (1, 160, 160)
        );
        assert_eq!(
            choose(&mut policy, &request(8, 20), &[0, 2, 0]).worker.0,
            0,
            "nobody has that one"
        );
    }

    #[test]
    fn only_a_whole_beginning_counts() {
        let mut policy = Affinity::default();
        policy.blocks(WorkerIndex(1), &blocks(7, 10)[1..], &[]);
        assert_eq!(choose(&mut policy, &request(7, 10), &[0, 0]).cached_tokens, 0);
    }

    #[test]
    fn it_yields_to_a_large_difference_and_says_so() {
        let mut policy = Affinity::default();
        policy.blocks(WorkerIndex(0), &blocks(7, 100), &[]);
        assert_eq!(choose(&mut policy, &request(7, 100), &[7, 0]).worker.0, 0);
        let choice = choose(&mut policy, &request(7, 100), &[9, 0]);
        assert_eq!(
            (choice.worker.0, choice.cached_tokens, choice.most_cached_tokens),
            (1, 0, 1600)
        );
    }

    #[test]
    fn what_was_evicted_or_lost_attracts_nothing() {
        let mut policy = Affinity::default();
        policy.blocks(WorkerIndex(1), &blocks(7, 10), &[]);
        policy.blocks(WorkerIndex(1), &[], &blocks(7, 1));
        assert_eq!(choose(&mut policy, &request(7, 10), &[0, 0]).worker.0, 0);
        policy.blocks(WorkerIndex(1), &blocks(7, 1), &[]);
        assert_eq!(choose(&mut policy, &request(7, 10), &[0, 0]).worker.0, 1);
        policy.lost(WorkerIndex(1));
        assert_eq!(choose(&mut policy, &request(7, 10), &[0, 0]).worker.0, 0);
    }

    #[test]
    fn a_burst_follows_its_first_before_that_is_reported() {
        let mut policy = Affinity::default();
        policy.sent(&request(7, 10), WorkerIndex(1));
        assert_eq!(
            choose(&mut policy, &request(7, 10), &[0, 1]).worker.0,
            0,
            "it may have no cache at all"
        );
        policy.blocks(WorkerIndex(1), &blocks(3, 1), &[]);
        assert_eq!(choose(&mut policy, &request(7, 10), &[0, 1]).worker.0, 1);
    }

    #[test]
    fn loads_that_swing_a_little_move_no_prefix() {
        let mut policy = Affinity::default();
        policy.blocks(WorkerIndex(0), &blocks(1, 16), &[]);
        policy.blocks(WorkerIndex(1), &blocks(2, 16), &[]);
        for step in 0..100_u32 {
            let loads = [4 + step % 4, 4 + (step + 2) % 4];
            assert_eq!(choose(&mut policy, &request(1, 16), &loads).worker.0, 0);
            assert_eq!(choose(&mut policy, &request(2, 16), &loads).worker.0, 1);
        }
    }
}
