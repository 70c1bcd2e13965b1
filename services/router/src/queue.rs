//! The waiting sequences of one model, and who of them goes next. A plain state machine: time is an argument; no channel,
//! no worker. Bounded; higher priority first and first come first served within one, but every [`QueueLimits::ageing`]
//! spent waiting counts as one priority more, so that nothing waits behind later arrivals forever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::sequence::{Priority, SequenceKey, Tenant};

/// How much a queue holds, and how patient it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Sequences that may wait.
    pub(crate) capacity: usize,
    /// Waiting this long is worth one priority.
    pub(crate) ageing: Duration,
    /// How long a sequence waits while no worker is ready.
    pub(crate) max_wait_without_worker: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            capacity: 256,
            ageing: Duration::from_secs(5),
            max_wait_without_worker: Duration::from_secs(60),
        }
    }
}

/// One waiting sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: SequenceKey,
    /// Kept for a fair order between tenants.
    pub(crate) tenant: Tenant,
    pub(crate) priority: Priority,
    /// Since when it waits: its arrival, also after a retry.
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Prompt tokens, which is what a worker has to compute first.
    pub(crate) prompt_tokens: usize,
}

/// The queue holds as many as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub(crate) struct Full;

/// Where an entry stands: its lane, then its number there.
type Place = (Lane, u64);

/// Entries of one lane leave in the order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Lane {
    /// Sent before and come back: before all others.
    Returned,
    Waiting(Priority),
}

const LANES: [Lane; 4] = [
    Lane::Returned,
    Lane::Waiting(Priority::High),
    Lane::Waiting(Priority::Normal),
    Lane::Waiting(Priority::Low),
];

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    entries: BTreeMap<Place, Entry>,
    places: HashMap<SequenceKey, Place>,
    deadlines: BTreeSet<(Instant, SequenceKey)>,
    next_number: u64,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            places: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_number: 0,
        }
    }

    pub(crate) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a new sequence in. Its key must not be waiting already.
    ///
    /// # Errors
    /// [`Full`]: answer the client now, waiting would not help.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), Full> {
        if self.len() >= self.limits.capacity {
            return Err(Full);
        }
        self.insert(Lane::Waiting(entry.priority), entry);
        Ok(())
    }

    /// Takes back a sequence that had left, before all others. Never refused: it was accepted once, and there are at most
    /// as many as workers can hold.
    pub(crate) fn push_returned(&mut self, entry: Entry) {
        self.insert(Lane::Returned, entry);
    }

    fn insert(&mut self, lane: Lane, entry: Entry) {
        let place = (lane, self.next_number);
        self.next_number += 1;
        self.places.insert(entry.key, place);
        if let Some(deadline) = entry.deadline {
            self.deadlines.insert((deadline, entry.key));
        }
        self.entries.insert(place, entry);
    }

    /// Returns who goes next.
    pub(crate) fn head(&self, now: Instant) -> Option<&Entry> {
        // Within a lane nobody outranks the first, so only the lanes' first ones compete.
        LANES
            .iter()
            .filter_map(|lane| self.entries.range((*lane, 0)..=(*lane, u64::MAX)).next())
            .min_by_key(|((lane, number), entry)| (std::cmp::Reverse(self.rank(*lane, entry, now)), *number))
            .map(|(_, entry)| entry)
    }

    /// Rank of an entry after ageing; higher goes first, equal ones in order of arrival.
    fn rank(&self, lane: Lane, entry: &Entry, now: Instant) -> u32 {
        let highest = Priority::High as u32;
        match lane {
            Lane::Returned => highest + 1,
            Lane::Waiting(priority) => {
                let waited = now.saturating_duration_since(entry.since).as_nanos();
                let aged = waited / self.limits.ageing.as_nanos().max(1);
                highest.min((priority as u32).saturating_add(u32::try_from(aged).unwrap_or(u32::MAX)))
            }
        }
    }

    /// Takes a sequence out, because it is dispatched or abandoned.
    pub(crate) fn remove(&mut self, key: SequenceKey) -> Option<Entry> {
        let place = self.places.remove(&key)?;
        let entry = self.entries.remove(&place)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        Some(entry)
    }

    /// Returns when the next deadline passes: call [`Self::take_expired`] then.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out everything whose deadline has passed.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<Entry> {
        let expired: Vec<_> = self.deadlines.range(..=(now, SequenceKey(u64::MAX))).copied().collect();
        expired.into_iter().filter_map(|(_, key)| self.remove(key)).collect()
    }

    /// Returns when somebody's patience ends if no worker was ready after `without_worker_since`.
    pub(crate) fn next_impatient(&self, without_worker_since: Instant) -> Option<Instant> {
        let longest = self.entries.values().map(|entry| entry.since).min()?;
        Some(longest.max(without_worker_since) + self.limits.max_wait_without_worker)
    }

    /// Takes out everything that has waited its time, all of it without a ready worker.
    pub(crate) fn take_impatient(&mut self, without_worker_since: Instant, now: Instant) -> Vec<Entry> {
        let patience = self.limits.max_wait_without_worker;
        let keys: Vec<_> = self
            .entries
            .values()
            .filter(|entry| entry.since.max(without_worker_since) + patience <= now)
            .map(|entry| entry.key)
            .collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Takes everything out, in order of arrival within each lane.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        self.places.clear();
        self.deadlines.clear();
        std::mem::take(&mut self.entries).into_values().collect()
    }
}

#[cfg(test)]
mod tests;
