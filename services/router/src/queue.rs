//! The waiting sequences of one model, and who of them goes next. A plain state machine: time is an argument; no channel,
//! no worker.
//!
//! Tenants take turns (`fairness`), so that nobody's flood and nobody's priority delays another by more than a turn. Of a
//! tenant's own, higher priority goes first and equal ones in order of arrival; every [`QueueLimits::ageing`] spent waiting
//! counts as one priority more, so that nothing waits behind its tenant's later arrivals for longer than two of them.
//! Bounded: a full queue makes room for a tenant with few waiting at the cost of the one with the most, and refuses
//! everybody else.

mod ahead;
mod lines;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::BlockHash;

use crate::fairness::Turns;
use crate::sequence::{Priority, SequenceKey, Tenant};
use lines::Lines;

/// How much a queue holds, and how patient it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Sequences that may wait.
    pub(crate) capacity: usize,
    /// Of these, sequences of one tenant.
    pub(crate) capacity_per_tenant: usize,
    /// Waiting this long is worth one priority.
    pub(crate) ageing: Duration,
    /// How long a sequence waits while no worker is ready.
    pub(crate) max_wait_without_worker: Duration,
    /// Tokens, of prompts and answers together, that a tenant sends in one turn.
    pub(crate) turn_tokens: u64,
    /// Whether a sequence is refused that cannot start before its deadline by all that was measured.
    pub(crate) refuse_late: bool,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            capacity: 256,
            capacity_per_tenant: usize::MAX,
            ageing: Duration::from_secs(5),
            max_wait_without_worker: Duration::from_secs(60),
            turn_tokens: 1024,
            refuse_late: true,
        }
    }
}

/// One waiting sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: SequenceKey,
    /// Tenants take turns.
    pub(crate) tenant: Tenant,
    pub(crate) priority: Priority,
    /// Since when it waits: its arrival, also after a retry.
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Prompt tokens, which is what a worker has to compute first.
    pub(crate) prompt_tokens: usize,
    /// Most tokens that it will generate.
    pub(crate) max_tokens: u32,
    /// Names of the prompt's full blocks that a prefix cache may have; empty where nobody asks.
    pub(crate) blocks: Arc<[BlockHash]>,
    /// Tokens of each.
    pub(crate) block_tokens: u32,
}

impl Entry {
    /// Returns what sending it costs its tenant, in tokens: all it may take.
    pub(crate) fn cost(&self) -> u64 {
        (self.prompt_tokens as u64).saturating_add(self.max_tokens.into())
    }
}

/// Why a sequence was not taken in: answer the client now, waiting would not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The queue holds as many as it may.
    #[error("the queue is full")]
    Queue,
    /// It holds as many of this tenant as it may.
    #[error("the tenant has as many waiting as it may")]
    Tenant,
}

/// Where an entry stands: its lane, then its number there.
type Place = (Lane, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Lane {
    /// Sent before and come back: before all others, first come first served.
    Returned,
    Waiting(Priority),
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    entries: HashMap<SequenceKey, (Place, Entry)>,
    returned: BTreeMap<u64, SequenceKey>,
    turns: Turns,
    /// Those waiting, returned ones apart, of each tenant that has any.
    tenants: HashMap<Tenant, Lines>,
    /// When each that is not in the highest class has waited long enough for the next.
    promotions: BTreeSet<(Instant, SequenceKey)>,
    deadlines: BTreeSet<(Instant, SequenceKey)>,
    next_number: u64,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            returned: BTreeMap::new(),
            turns: Turns::new(limits.turn_tokens),
            tenants: HashMap::new(),
            promotions: BTreeSet::new(),
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

    /// Returns how many tenants have something waiting, returned sequences apart.
    pub(crate) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Returns whether something waits that had left before.
    pub(crate) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Takes a new sequence in. Its key must not be waiting already. Returns who had to make room for it: the newest of the
    /// tenant with the most waiting, if the queue was full and the newcomer's tenant still has fewer.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn push(&mut self, entry: Entry) -> Result<Option<Entry>, Full> {
        let of_tenant = self.tenants.get(&entry.tenant).map_or(0, Lines::len);
        if of_tenant >= self.limits.capacity_per_tenant {
            return Err(Full::Tenant);
        }
        let mut displaced = None;
        if self.len() >= self.limits.capacity {
            let newest = self.newest_of_the_most(of_tenant).ok_or(Full::Queue)?;
            displaced = self.remove(newest);
        }
        let priority = entry.priority;
        self.insert(Lane::Waiting(priority), entry);
        Ok(displaced)
    }

    /// Returns the newest sequence, of the lowest class, of the tenant with the most waiting, if that tenant would still have
    /// as many as one who has `count` and gets one more.
    fn newest_of_the_most(&self, count: usize) -> Option<SequenceKey> {
        let counts = self.tenants.iter().map(|(tenant, lines)| (lines.len(), tenant, lines));
        // The name settles it between equals, so that the answer does not depend on how a map is laid out.
        let most = counts.max_by_key(|(waiting, tenant, _)| (*waiting, *tenant));
        let (_, _, lines) = most.filter(|(waiting, ..)| *waiting >= count + 2)?;
        lines.last().map(|item| item.key)
    }

    /// Takes back a sequence that had left, before all others. Never refused: it was accepted once, and there are at most
    /// as many as workers can hold.
    pub(crate) fn push_returned(&mut self, entry: Entry) {
        self.insert(Lane::Returned, entry);
    }

    fn insert(&mut self, lane: Lane, entry: Entry) {
        let number = self.next_number;
        self.next_number += 1;
        if let Some(deadline) = entry.deadline {
            self.deadlines.insert((deadline, entry.key));
        }
        match lane {
            Lane::Returned => {
                self.returned.insert(number, entry.key);
            }
            Lane::Waiting(priority) => {
                if !self.tenants.contains_key(&entry.tenant) {
                    self.turns.enter(entry.tenant.clone());
                }
                let lines = self.tenants.entry(entry.tenant.clone()).or_default();
                lines.insert(priority, number, &entry);
                self.promotions.extend(self.promotion(priority, &entry));
            }
        }
        self.entries.insert(entry.key, ((lane, number), entry));
    }

    /// Returns when an entry in the class of `priority` has waited long enough for the next one.
    fn promotion(&self, priority: Priority, entry: &Entry) -> Option<(Instant, SequenceKey)> {
        let ages = (priority as u32) + 1 - (entry.priority as u32);
        let at = entry.since + self.limits.ageing * ages;
        (priority < Priority::High).then_some((at, entry.key))
    }

    /// Lets everything that has waited long enough rise.
    fn promote(&mut self, now: Instant) {
        while let Some((at, key)) = self.promotions.first().copied()
            && at <= now
        {
            self.promotions.pop_first();
            let Some(((Lane::Waiting(priority), number), entry)) = self.entries.get_mut(&key) else {
                continue;
            };
            let next = match priority {
                Priority::Low => Priority::Normal,
                Priority::Normal | Priority::High => Priority::High,
            };
            if let Some(lines) = self.tenants.get_mut(&entry.tenant) {
                lines.remove(*priority, *number);
                lines.insert(next, *number, entry);
            }
            *priority = next;
            let entry = entry.clone();
            self.promotions.extend(self.promotion(next, &entry));
        }
    }

    /// Returns who goes next. Asking again at the same time gives the same answer, until something changes.
    pub(crate) fn head(&mut self, now: Instant) -> Option<&Entry> {
        self.promote(now);
        let key = match self.returned.first_key_value() {
            Some((_, key)) => *key,
            None => {
                let Self { turns, tenants, .. } = self;
                let first = |tenant: &Tenant| tenants.get(tenant)?.first();
                let tenant = turns.next(|tenant| first(tenant).map_or(0, |item| item.cost))?;
                first(tenant)?.key
            }
        };
        self.entries.get(&key).map(|(_, entry)| entry)
    }

    /// Takes a sequence out that is abandoned.
    pub(crate) fn remove(&mut self, key: SequenceKey) -> Option<Entry> {
        let ((lane, number), entry) = self.entries.remove(&key)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        match lane {
            Lane::Returned => {
                self.returned.remove(&number);
            }
            Lane::Waiting(class) => {
                if let Some(promotion) = self.promotion(class, &entry) {
                    self.promotions.remove(&promotion);
                }
                let lines = self.tenants.get_mut(&entry.tenant);
                let left = lines.map(|lines| {
                    lines.remove(class, number);
                    lines.is_empty()
                });
                if left == Some(true) {
                    self.tenants.remove(&entry.tenant);
                    self.turns.leave(&entry.tenant);
                }
            }
        }
        Some(entry)
    }

    /// Takes a sequence out that is sent to a worker: its tenant pays for it, unless it had been sent before.
    pub(crate) fn send(&mut self, key: SequenceKey) -> Option<Entry> {
        let ((lane, _), entry) = self.entries.get(&key)?;
        if let Lane::Waiting(_) = lane {
            self.turns.pay(&entry.tenant, entry.cost());
        }
        self.remove(key)
    }

    /// Changes the priority and the deadline of a waiting sequence. What it has waited keeps counting, and so does its place
    /// among its tenant's.
    pub(crate) fn revise(&mut self, key: SequenceKey, priority: Priority, deadline: Option<Instant>) {
        let Some(((lane, number), old)) = self.entries.get(&key).cloned() else {
            return;
        };
        let entry = Entry {
            priority,
            deadline,
            ..old.clone()
        };
        self.deadlines.extend(deadline.map(|deadline| (deadline, key)));
        if let Some(before) = old.deadline.filter(|before| Some(*before) != deadline) {
            self.deadlines.remove(&(before, key));
        }
        let mut lane = lane;
        if let Lane::Waiting(class) = &mut lane
            && priority != old.priority
        {
            if let Some(promotion) = self.promotion(*class, &old) {
                self.promotions.remove(&promotion);
            }
            if let Some(lines) = self.tenants.get_mut(&old.tenant) {
                lines.remove(*class, number);
                lines.insert(priority, number, &entry);
            }
            *class = priority;
            self.promotions.extend(self.promotion(priority, &entry));
        }
        self.entries.insert(key, ((lane, number), entry));
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

    fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|(_, entry)| entry)
    }

    /// Returns when somebody's patience ends if no worker was ready after `without_worker_since`.
    pub(crate) fn next_impatient(&self, without_worker_since: Instant) -> Option<Instant> {
        let longest = self.waiting().map(|entry| entry.since).min()?;
        Some(longest.max(without_worker_since) + self.limits.max_wait_without_worker)
    }

    /// Takes out everything that has waited its time, all of it without a ready worker; who has waited longest first.
    pub(crate) fn take_impatient(&mut self, without_worker_since: Instant, now: Instant) -> Vec<Entry> {
        let patience = self.limits.max_wait_without_worker;
        let impatient = self
            .waiting()
            .filter(|entry| entry.since.max(without_worker_since) + patience <= now);
        let mut keys: Vec<_> = impatient.map(|entry| (entry.since, entry.key)).collect();
        keys.sort_unstable();
        keys.into_iter().filter_map(|(_, key)| self.remove(key)).collect()
    }

    /// Takes everything out, in order of arrival.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        let mut places: Vec<_> = self
            .entries
            .values()
            .map(|((_, number), entry)| (*number, entry.key))
            .collect();
        places.sort_unstable();
        places.into_iter().filter_map(|(_, key)| self.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests;
