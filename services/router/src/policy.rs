//! Which worker takes a sequence. A policy sees numbers, not workers. To add one: a file in `policy/` and a line in
//! [`PolicyKind::ALL`]'s table here.

use std::fmt;
use std::str::FromStr;

use crate::queue::Entry;

mod least_load;
mod round_robin;

/// A worker among those of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerIndex(pub(crate) usize);

/// A ready worker as a policy sees it. Counts are the router's own, so they hold between the worker's frames too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) worker: WorkerIndex,
    /// Sequences it may still take; at least 1 where a policy sees it.
    pub(crate) room: u32,
    /// Sequences it has.
    pub(crate) in_flight: u32,
    /// Prompt tokens it has still to compute.
    pub(crate) pending_prefill_tokens: u64,
}

/// Chooses among workers with room.
pub(crate) trait Policy: fmt::Debug + Send {
    /// Returns one of `candidates`, which are in the order of their index and never empty. `None` keeps the sequence
    /// waiting.
    fn choose(&mut self, entry: &Entry, candidates: &[Candidate]) -> Option<WorkerIndex>;
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PolicyKind {
    /// The worker with the fewest sequences; of these the one with the least prefill ahead.
    #[default]
    LeastLoad,
    /// One after the other.
    RoundRobin,
}

impl PolicyKind {
    /// All of them with their names in the configuration.
    pub(crate) const ALL: [(Self, &'static str); 2] =
        [(Self::LeastLoad, "least_load"), (Self::RoundRobin, "round_robin")];

    /// Makes a fresh one.
    pub(crate) fn build(self) -> Box<dyn Policy> {
        match self {
            Self::LeastLoad => Box::new(least_load::LeastLoad),
            Self::RoundRobin => Box::new(round_robin::RoundRobin::default()),
        }
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
#[error("there is no policy `{0}`; use least_load or round_robin")]
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
        }
    }

    pub(crate) fn candidate(worker: usize, in_flight: u32, pending_prefill_tokens: u64) -> Candidate {
        Candidate {
            worker: WorkerIndex(worker),
            room: 1,
            in_flight,
            pending_prefill_tokens,
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
            let mut policy = kind.build();
            let candidates = [candidate(2, 1, 0), candidate(5, 0, 9)];
            for _ in 0..4 {
                let chosen = policy.choose(&entry(), &candidates).unwrap();
                assert!(candidates.iter().any(|candidate| candidate.worker == chosen), "{name}");
            }
        }
    }
}
