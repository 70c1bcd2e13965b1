//! Who goes before a newcomer.

use super::{Entry, Queue};

impl Queue {
    /// Returns the waiting sequences that leave before `newcomer` would, as far as that is certain today: returned ones, what
    /// its own tenant has waiting in its class and above, and of other tenants what they send while its tenant sends that,
    /// less the turn that it may be early.
    pub(crate) fn ahead_of<'a>(&'a self, newcomer: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        let own = self.tenants.get(&newcomer.tenant).into_iter();
        let own: Vec<_> = own.flat_map(|lines| lines.before(newcomer.priority)).collect();
        let sent: u64 = own.iter().map(|item| item.cost).sum();
        let shared = sent.saturating_sub(self.limits.turn_tokens);
        let others = self.tenants.iter().filter(|(tenant, _)| **tenant != newcomer.tenant);
        let others = others.flat_map(move |(_, lines)| {
            lines.iter().scan(shared, |left, item| {
                *left = left.checked_sub(item.cost)?;
                Some(item)
            })
        });
        let keys = self.returned.values().copied();
        let keys = keys.chain(others.chain(own).map(|item| item.key));
        keys.filter_map(|key| self.entries.get(&key).map(|(_, entry)| entry))
    }
}
