//! Holding a sequence back while another one computes the prefix both share: it starts as a hit instead of computing the
//! same again. A hold ends when the blocks are there, when their leader leaves, or when the leader does not get on.

use std::collections::HashMap;

use kr_contract::BlockHash;

use super::sequence::Turn;

/// Plans that a sequence is held through while its leader makes no progress.
const PATIENCE: u32 = 32;

/// Blocks that running sequences are going to save, and who leads.
#[derive(Debug, Default)]
pub(super) struct Promises {
    leaders: HashMap<BlockHash, Turn>,
}

impl Promises {
    /// Notes that `leader` computes these blocks, unless somebody does already.
    pub(super) fn promise(&mut self, leader: Turn, names: &[BlockHash]) {
        for name in names {
            self.leaders.entry(*name).or_insert(leader);
        }
    }

    pub(super) fn leader(&self, name: BlockHash) -> Option<Turn> {
        self.leaders.get(&name).copied()
    }

    /// Ends the wait for a block: it is there, or it will not be.
    pub(super) fn settle(&mut self, name: BlockHash) {
        self.leaders.remove(&name);
    }

    /// Takes back what `leader` promised among these blocks.
    pub(super) fn withdraw(&mut self, leader: Turn, names: &[BlockHash]) {
        for name in names {
            if self.leader(*name) == Some(leader) {
                self.leaders.remove(name);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.leaders.len()
    }
}

/// How long one sequence has been held without its leader getting on.
#[derive(Debug, Default)]
pub(super) struct Hold {
    leader: Option<Turn>,
    /// Positions of the leader that were planned when it was looked at last.
    progress: u32,
    idle_plans: u32,
}

impl Hold {
    /// Looks at the leader once more, and returns whether waiting for it is still worth it.
    pub(super) fn is_worth(&mut self, leader: Turn, progress: u32) -> bool {
        if self.leader == Some(leader) && self.progress == progress {
            self.idle_plans = self.idle_plans.saturating_add(1);
        } else {
            *self = Self {
                leader: Some(leader),
                progress,
                idle_plans: 0,
            };
        }
        self.idle_plans <= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    #[test]
    fn patience_ends_with_a_leader_that_does_not_get_on() {
        let turn = |arrival| Turn {
            priority: Reverse(0),
            arrival,
        };
        let mut hold = Hold::default();
        for progress in 0..100 {
            assert!(hold.is_worth(turn(1), progress), "it gets on");
        }
        let held = (0..100).take_while(|_| hold.is_worth(turn(1), 99)).count();
        assert_eq!(held, usize::try_from(PATIENCE).unwrap());
        assert!(!hold.is_worth(turn(1), 99));
        assert!(hold.is_worth(turn(2), 99), "another leader is given a chance");
    }
}
