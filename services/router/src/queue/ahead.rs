//! Who goes before a newcomer.

use super::{Entry, Queue};

impl Queue {
    /// Returns the waiting sequences that leave before `newcomer` would, as far as that is certain today: returned ones,
    /// higher classes, what its own tenant has waiting, and of other tenants in its class what they send while its tenant
    /// sends that, less the turn that it may be early.
    pub(crate) fn ahead_of<'a>(&'a self, newcomer: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        let class = &self.classes[newcomer.priority as usize];
        let higher = self.classes.iter().skip(newcomer.priority as usize + 1).rev();
        let own = class.of(&newcomer.tenant);
        let sent: u64 = class.of(&newcomer.tenant).map(|item| item.cost).sum();
        let shared = sent.saturating_sub(self.limits.turn_tokens);
        let others = class.tenants().filter(|tenant| **tenant != newcomer.tenant);
        let others = others.flat_map(move |tenant| {
            class.of(tenant).scan(shared, |left, item| {
                *left = left.checked_sub(item.cost)?;
                Some(item)
            })
        });
        let keys = self.returned.values().copied();
        let keys = keys.chain(higher.flat_map(|class| class.in_order()));
        let keys = keys.chain(others.chain(own).map(|item| item.key));
        keys.filter_map(|key| self.entries.get(&key).map(|(_, entry)| entry))
    }
}
