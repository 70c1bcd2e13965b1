//! Whose turn it is among tenants that wait: deficit round robin (Shreedhar and Varghese, 1996), so that a tenant's share
//! is counted in tokens, not in requests. Pure; knows who takes part and what they paid, not what waits.

use std::collections::VecDeque;

use crate::sequence::Tenant;

/// Tenants in turn. With `turn` tokens granted per turn and no cost above `max`, two tenants that both wait the whole time
/// are served to within `turn + 2 * max` tokens of each other, and nobody waits longer than one turn of each other tenant
/// per own turn needed.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Tokens that a turn grants; at least 1.
    grant: u64,
    /// The first one is at its turn.
    ring: VecDeque<Account>,
}

#[derive(Debug)]
struct Account {
    tenant: Tenant,
    /// Granted and not spent yet.
    credit: u64,
    /// Whether this turn's grant is in `credit`.
    granted: bool,
}

impl Turns {
    /// Makes a round without tenants in which each turn grants `turn_tokens`.
    pub(crate) fn new(turn_tokens: u64) -> Self {
        Self {
            grant: turn_tokens.max(1),
            ring: VecDeque::new(),
        }
    }

    /// Takes a tenant in, behind all others and without credit. It must not take part already.
    pub(crate) fn enter(&mut self, tenant: Tenant) {
        self.ring.push_back(Account {
            tenant,
            credit: 0,
            granted: false,
        });
    }

    /// Takes a tenant out who has nothing waiting any more; what it had not spent is lost.
    pub(crate) fn leave(&mut self, tenant: &Tenant) {
        self.ring.retain(|account| account.tenant != *tenant);
    }

    /// Returns who may send what waits first for it, which costs `cost_of` that tenant. Asking again without a change in
    /// between gives the same answer.
    pub(crate) fn next(&mut self, cost_of: impl Fn(&Tenant) -> u64) -> Option<&Tenant> {
        let mut passed = 0;
        loop {
            let grant = self.grant;
            let account = self.ring.front_mut()?;
            if !std::mem::replace(&mut account.granted, true) {
                account.credit = account.credit.saturating_add(grant);
            }
            if account.credit >= cost_of(&account.tenant) {
                break;
            }
            account.granted = false;
            self.ring.rotate_left(1);
            passed += 1;
            if passed == self.ring.len() {
                passed = 0;
                self.skip_rounds(&cost_of);
            }
        }
        self.ring.front().map(|account| &account.tenant)
    }

    /// Grants all the rounds at once in which nobody could pay yet.
    fn skip_rounds(&mut self, cost_of: impl Fn(&Tenant) -> u64) {
        let missing = |account: &Account| cost_of(&account.tenant).saturating_sub(account.credit);
        let rounds = self
            .ring
            .iter()
            .map(|account| missing(account).div_ceil(self.grant))
            .min();
        let skipped = rounds.unwrap_or(0).saturating_sub(1).saturating_mul(self.grant);
        for account in &mut self.ring {
            account.credit = account.credit.saturating_add(skipped);
        }
    }

    /// Takes what a tenant sent from its credit.
    pub(crate) fn pay(&mut self, tenant: &Tenant, cost: u64) {
        if let Some(account) = self.ring.iter_mut().find(|account| account.tenant == *tenant) {
            account.credit = account.credit.saturating_sub(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn tenant(number: usize) -> Tenant {
        Tenant(Arc::from(number.to_string()))
    }

    fn number(tenant: &Tenant) -> usize {
        tenant.0.parse().unwrap()
    }

    #[test]
    fn tenants_take_turns_and_large_requests_wait_for_more_of_them() {
        let mut turns = Turns::new(10);
        turns.enter(tenant(0));
        turns.enter(tenant(1));
        let cost = |of: &Tenant| [25, 10][number(of)];
        let mut order = Vec::new();
        for _ in 0..6 {
            let who = turns.next(cost).unwrap().clone();
            turns.pay(&who, cost(&who));
            order.push(number(&who));
        }
        assert_eq!(order, [1, 1, 0, 1, 1, 0]);
    }

    #[test]
    fn a_tenant_who_comes_late_has_its_turn_after_one_of_each_other() {
        let mut turns = Turns::new(10);
        turns.enter(tenant(0));
        for _ in 0..50 {
            let who = turns.next(|_| 10).unwrap().clone();
            turns.pay(&who, 10);
        }
        turns.enter(tenant(1));
        let mut order = Vec::new();
        for _ in 0..3 {
            let who = turns.next(|_| 10).unwrap().clone();
            turns.pay(&who, 10);
            order.push(number(&who));
        }
        assert_eq!(order, [1, 0, 1]);
    }

    #[test]
    fn credit_is_lost_by_leaving() {
        let mut turns = Turns::new(100);
        turns.enter(tenant(0));
        turns.next(|_| 1).unwrap();
        assert_eq!(turns.ring[0].credit, 100);
        turns.leave(&tenant(0));
        assert_eq!(turns.next(|_| 1), None);
        turns.enter(tenant(0));
        assert_eq!(turns.ring[0].credit, 0);
    }

    proptest! {
        #[test]
        fn who_waits_the_whole_time_gets_the_same_share(
            grant in 1..2000_u64,
            costs in proptest::collection::vec(proptest::collection::vec(1..5000_u64, 1..8), 2..6),
            served in 1..400_usize,
        ) {
            let mut turns = Turns::new(grant);
            (0..costs.len()).for_each(|number| turns.enter(tenant(number)));
            let mut sent = vec![0_usize; costs.len()];
            let mut paid = vec![0_u64; costs.len()];
            let max = *costs.iter().flatten().max().unwrap();
            for _ in 0..served {
                let cost = |of: &Tenant| {
                    let of = number(of);
                    costs[of][sent[of] % costs[of].len()]
                };
                let who = turns.next(cost).unwrap().clone();
                prop_assert_eq!(turns.next(cost), Some(&who));
                let price = cost(&who);
                turns.pay(&who, price);
                sent[number(&who)] += 1;
                paid[number(&who)] += price;
                let (least, most) = (paid.iter().min().unwrap(), paid.iter().max().unwrap());
                prop_assert!(most - least <= grant + 2 * max, "{paid:?} with grant {grant} and costs up to {max}");
            }
        }
    }
}
