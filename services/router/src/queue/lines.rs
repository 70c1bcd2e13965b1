//! The waiting sequences of one tenant: higher priority first, and within one in order of arrival.

use std::collections::BTreeMap;

use crate::queue::Entry;
use crate::sequence::{Priority, SequenceKey};

/// What a place needs to know of its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: SequenceKey,
    pub(super) cost: u64,
}

/// A line for each priority, lowest first. Places are numbers in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Lines([BTreeMap<u64, Item>; 3]);

impl Lines {
    pub(super) fn insert(&mut self, class: Priority, number: u64, entry: &Entry) {
        let item = Item {
            key: entry.key,
            cost: entry.cost(),
        };
        self.0[class as usize].insert(number, item);
    }

    pub(super) fn remove(&mut self, class: Priority, number: u64) -> Option<Item> {
        self.0[class as usize].remove(&number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    /// Returns who goes next.
    pub(super) fn first(&self) -> Option<Item> {
        self.0
            .iter()
            .rev()
            .find_map(|line| line.first_key_value())
            .map(|(_, item)| *item)
    }

    /// Returns the newest of the lowest class.
    pub(super) fn last(&self) -> Option<Item> {
        self.0
            .iter()
            .find_map(|line| line.last_key_value())
            .map(|(_, item)| *item)
    }

    /// Returns all in the order in which they go.
    pub(super) fn iter(&self) -> impl Iterator<Item = Item> + '_ {
        self.0.iter().rev().flat_map(BTreeMap::values).copied()
    }

    /// Returns those that go before one who comes now with this priority.
    pub(super) fn before(&self, priority: Priority) -> impl Iterator<Item = Item> + '_ {
        self.0[priority as usize..]
            .iter()
            .rev()
            .flat_map(BTreeMap::values)
            .copied()
    }
}
