//! The waiting sequences of one priority: of each tenant in order of arrival, tenants in turn.

use std::collections::{BTreeMap, HashMap};

use crate::fairness::Turns;
use crate::queue::Entry;
use crate::sequence::{SequenceKey, Tenant};

/// What a place needs to know of its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: SequenceKey,
    pub(super) cost: u64,
}

/// See the module's description. Places are numbers in order of arrival.
#[derive(Debug)]
pub(super) struct Class {
    turns: Turns,
    /// Never an empty one.
    tenants: HashMap<Tenant, BTreeMap<u64, Item>>,
}

impl Class {
    pub(super) fn new(turn_tokens: u64) -> Self {
        Self {
            turns: Turns::new(turn_tokens),
            tenants: HashMap::new(),
        }
    }

    pub(super) fn insert(&mut self, number: u64, entry: &Entry) {
        let item = Item {
            key: entry.key,
            cost: entry.cost(),
        };
        if let Some(items) = self.tenants.get_mut(&entry.tenant) {
            items.insert(number, item);
        } else {
            self.turns.enter(entry.tenant.clone());
            self.tenants
                .insert(entry.tenant.clone(), BTreeMap::from([(number, item)]));
        }
    }

    /// Takes a sequence out that is not sent.
    pub(super) fn remove(&mut self, tenant: &Tenant, number: u64) {
        let Some(items) = self.tenants.get_mut(tenant) else {
            return;
        };
        items.remove(&number);
        if items.is_empty() {
            self.tenants.remove(tenant);
            self.turns.leave(tenant);
        }
    }

    /// Takes a sequence out that is sent, at its tenant's cost.
    pub(super) fn send(&mut self, tenant: &Tenant, number: u64) {
        let item = self.tenants.get(tenant).and_then(|items| items.get(&number));
        if let Some(item) = item {
            self.turns.pay(tenant, item.cost);
        }
        self.remove(tenant, number);
    }

    /// Returns who goes next.
    pub(super) fn head(&mut self) -> Option<SequenceKey> {
        let Self { turns, tenants } = self;
        let first = |tenant: &Tenant| Some(tenants.get(tenant)?.first_key_value()?.1);
        let tenant = turns.next(|tenant| first(tenant).map_or(0, |item| item.cost))?;
        first(tenant).map(|item| item.key)
    }

    /// Returns a tenant's newest.
    pub(super) fn newest_of(&self, tenant: &Tenant) -> Option<SequenceKey> {
        Some(self.tenants.get(tenant)?.last_key_value()?.1.key)
    }

    /// Returns those of a tenant, first come first.
    pub(super) fn of(&self, tenant: &Tenant) -> impl Iterator<Item = Item> + '_ {
        self.tenants.get(tenant).into_iter().flat_map(BTreeMap::values).copied()
    }

    /// Returns the tenants that wait here.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.keys()
    }

    /// Returns all sequences in order of arrival.
    pub(super) fn in_order(&self) -> Vec<SequenceKey> {
        let mut all: Vec<_> = self
            .tenants
            .values()
            .flatten()
            .map(|(number, item)| (*number, item.key))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, key)| key).collect()
    }
}
