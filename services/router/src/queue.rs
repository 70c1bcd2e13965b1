//! The waiting sequences of one model, and who of them goes next. A plain state machine: time is an argument; no channel,
//! no worker.
//!
//! Higher priority goes first; within one, tenants take turns (`fairness`), and each tenant's own go in order of arrival.
//! Every [`QueueLimits::ageing`] spent waiting counts as one priority more, so that nothing waits behind higher priorities
//! for longer than two of them. Bounded: a full queue makes room for a tenant with few waiting at the cost of the one with
//! the most, and refuses everybody else.

mod ahead;
mod class;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::BlockHash;

use crate::sequence::{Priority, SequenceKey, Tenant};
use class::Class;

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
    /// By priority.
    classes: [Class; 3],
    /// Those waiting, returned ones apart, of each tenant that has any.
    waiting_of: HashMap<Tenant, usize>,
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
            classes: [(); 3].map(|()| Class::new(limits.turn_tokens)),
            waiting_of: HashMap::new(),
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
        self.waiting_of.len()
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
        let of_tenant = self.waiting_of.get(&entry.tenant).copied().unwrap_or(0);
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
        // The name settles it between equals, so that the answer does not depend on how a map is laid out.
        let most = self
            .waiting_of
            .iter()
            .max_by_key(|(tenant, waiting)| (**waiting, *tenant));
        let (tenant, _) = most.filter(|(_, waiting)| **waiting >= count + 2)?;
        self.classes.iter().find_map(|class| class.newest_of(tenant))
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
                *self.waiting_of.entry(entry.tenant.clone()).or_insert(0) += 1;
                self.classes[priority as usize].insert(number, &entry);
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
            self.classes[*priority as usize].remove(&entry.tenant, *number);
            self.classes[next as usize].insert(*number, entry);
            *priority = next;
            let entry = entry.clone();
            self.promotions.extend(self.promotion(next, &entry));
        }
    }

    /// Returns who goes next. Asking again at the same time gives the same answer, until something changes.
    pub(crate) fn head(&mut self, now: Instant) -> Option<&Entry> {
        self.promote(now);
        let returned = self.returned.first_key_value().map(|(_, key)| *key);
        let key = returned.or_else(|| self.classes.iter_mut().rev().find_map(Class::head))?;
        self.entries.get(&key).map(|(_, entry)| entry)
    }

    /// Takes a sequence out that is abandoned.
    pub(crate) fn remove(&mut self, key: SequenceKey) -> Option<Entry> {
        self.take(key, Class::remove)
    }

    /// Takes a sequence out that is sent to a worker: its tenant pays for it.
    pub(crate) fn send(&mut self, key: SequenceKey) -> Option<Entry> {
        self.take(key, Class::send)
    }

    fn take(&mut self, key: SequenceKey, out: impl FnOnce(&mut Class, &Tenant, u64)) -> Option<Entry> {
        let ((lane, number), entry) = self.entries.remove(&key)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        match lane {
            Lane::Returned => {
                self.returned.remove(&number);
            }
            Lane::Waiting(priority) => {
                if let Some(promotion) = self.promotion(priority, &entry) {
                    self.promotions.remove(&promotion);
                }
                out(&mut self.classes[priority as usize], &entry.tenant, number);
                if let Some(count) = self.waiting_of.get_mut(&entry.tenant) {
                    *count -= 1;
                    if *count == 0 {
                        self.waiting_of.remove(&entry.tenant);
                    }
                }
            }
        }
        Some(entry)
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
            self.classes[*class as usize].remove(&old.tenant, number);
            *class = priority;
            self.classes[priority as usize].insert(number, &entry);
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

    /// Takes everything out: returned ones, then class by class, in order of arrival within each.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        let mut keys: Vec<_> = self.returned.values().copied().collect();
        keys.extend(self.classes.iter().rev().flat_map(Class::in_order));
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests;
