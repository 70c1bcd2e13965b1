//! Which worker takes a sequence. A policy sees numbers, not workers. To add one: a file in `policy/` and a line in
//! [`PolicyKind::ALL`]'s table here.

use std::fmt;
use std::str::FromStr;

use kr_contract::BlockHash;

use crate::queue::Entry;

mod affinity;
mod least_load;
mod power_of_two;
mod round_robin;

/// A worker among those of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerIndex(pub(crate) usize);

/// A ready worker as a policy sees it: its last report, and what was sent since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) worker: WorkerIndex,
    /// Sequences it may still take; at least 1 where a policy sees it.
    pub(crate) room: u32,
    /// Sequences it has.
    pub(crate) in_flight: u32,
    /// Prompt tokens it has still to compute.
    pub(crate) pending_prefill_tokens: u64,
    /// Of its KV budget: in use, or promised to sequences.
    pub(crate) kv_used_bytes: u64,
    /// 0 where it is not known.
    pub(crate) kv_budget_bytes: u64,
}

/// Where a sequence goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) worker: WorkerIndex,
    /// Prompt tokens expected in its prefix cache.
    pub(crate) cached_tokens: u32,
    /// Those in the cache of the candidate that has the most.
    pub(crate) most_cached_tokens: u32,
}

impl Choice {
    fn of(candidate: &Candidate) -> Self {
        Self {
            worker: candidate.worker,
            cached_tokens: 0,
            most_cached_tokens: 0,
        }
    }
}

/// Chooses among workers with room.
pub(crate) trait Policy: fmt::Debug + Send {
    /// Returns one of `candidates`, which are in the order of their index and never empty. `None` keeps the sequence
    /// waiting.
    fn choose(&mut self, entry: &Entry, candidates: &[Candidate]) -> Option<Choice>;

    /// Returns whether it looks at the names of a prompt's blocks, which cost hashing.
    fn wants_blocks(&self) -> bool {
        false
    }

    /// Takes note that a sequence was sent.
    fn sent(&mut self, _entry: &Entry, _worker: WorkerIndex) {}

    /// Takes note of what a worker's prefix cache gained and lost.
    fn blocks(&mut self, _worker: WorkerIndex, _added: &[BlockHash], _evicted: &[BlockHash]) {}

    /// Takes note that a worker lost everything.
    fn lost(&mut self, _worker: WorkerIndex) {}
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PolicyKind {
    /// The worker that has the prompt's beginning cached, unless it has too much to do.
    #[default]
    Affinity,
    /// The worker with the least to do.
    LeastLoad,
    /// Of two at random the one with less to do.
    PowerOfTwo,
    /// One after the other.
    RoundRobin,
}

impl PolicyKind {
    /// All of them with their names in the configuration.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Affinity, "affinity"),
        (Self::LeastLoad, "least_load"),
        (Self::PowerOfTwo, "power_of_two"),
        (Self::RoundRobin, "round_robin"),
    ];

    /// Makes a fresh one; `seed` decides what it draws.
    pub(crate) fn build(self, seed: u64) -> Box<dyn Policy> {
        match self {
            Self::Affinity => Box::new(affinity::Affinity::default()),
            Self::LeastLoad => Box::new(least_load::LeastLoad),
            Self::PowerOfTwo => Box::new(power_of_two::PowerOfTwo::new(seed)),
            Self::RoundRobin => Box::new(round_robin::RoundRobin::default()),
        }
    }

    /// Returns all names, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(|(_, name)| name).join(", ")
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(kind, _)| kind == self)
            .map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// There is no such policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy `{0}`; use one of {names}", names = PolicyKind::names())]
pub(crate) struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(kind, _)| *kind).ok_or_else(|| UnknownPolicy(text.into()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::sequence::{Priority, SequenceKey, Tenant};

    pub(crate) fn entry() -> Entry {
        Entry {
            key: SequenceKey(0),
            tenant: Tenant(Arc::from("default")),
            priority: Priority::Normal,
            since: Instant::now(),
            deadline: None,
            prompt_tokens: 1,
            max_tokens: 1,
            blocks: Arc::from([]),
            block_tokens: 16,
        }
    }

    pub(crate) fn candidate(worker: usize, in_flight: u32, pending_prefill_tokens: u64) -> Candidate {
        Candidate {
            worker: WorkerIndex(worker),
            room: 1,
            in_flight,
            pending_prefill_tokens,
            kv_used_bytes: 0,
            kv_budget_bytes: 0,
        }
    }

    #[test]
    fn every_policy_is_found_by_its_name() {
        for (kind, name) in PolicyKind::ALL {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        assert!("random".parse::<PolicyKind>().is_err());
    }

    #[test]
    fn every_policy_chooses_a_candidate() {
        for (kind, name) in PolicyKind::ALL {
            let mut policy = kind.build(1);
            let candidates = [candidate(2, 1, 0), candidate(5, 0, 9)];
            for _ in 0..4 {
                let chosen = policy.choose(&entry(), &candidates).unwrap();
                assert!(
                    candidates.iter().any(|candidate| candidate.worker == chosen.worker),
                    "{name}"
                );
            }
        }
    }
}
