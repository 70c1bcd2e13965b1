//! Which worker holds which blocks of the prefix cache, as far as it said so. Bounded: of too many the oldest are forgotten.

use std::collections::{HashMap, VecDeque};

use kr_contract::BlockHash;

/// A set that holds as many names as it may, the newest ones.
#[derive(Debug)]
pub(super) struct Recent {
    most: usize,
    /// Each with the number it was last put in under.
    numbers: HashMap<BlockHash, u64>,
    /// In order; those whose number is not the present one are left over.
    order: VecDeque<(u64, BlockHash)>,
    next: u64,
}

impl Recent {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            numbers: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }

    pub(super) fn insert(&mut self, block: BlockHash) {
        self.numbers.insert(block, self.next);
        self.order.push_back((self.next, block));
        self.next += 1;
        while self.numbers.len() > self.most
            && let Some((number, oldest)) = self.order.pop_front()
        {
            if self.numbers.get(&oldest) == Some(&number) {
                self.numbers.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.most.max(self.numbers.len()) {
            let numbers = &self.numbers;
            self.order.retain(|(number, block)| numbers.get(block) == Some(number));
        }
    }

    pub(super) fn remove(&mut self, block: &BlockHash) {
        self.numbers.remove(block);
    }

    pub(super) fn contains(&self, block: &BlockHash) -> bool {
        self.numbers.contains_key(block)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u8) -> BlockHash {
        BlockHash([number; 16])
    }

    #[test]
    fn the_oldest_are_forgotten_and_what_is_said_again_is_new() {
        let mut recent = Recent::new(3);
        (0..3).for_each(|number| recent.insert(block(number)));
        recent.insert(block(0));
        recent.insert(block(3));
        assert!(!recent.contains(&block(1)));
        assert!([0, 2, 3].iter().all(|number| recent.contains(&block(*number))));
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(
            most in 1..20_usize,
            steps in proptest::collection::vec((any::<bool>(), 0..40_u8), 1..500),
        ) {
            let mut recent = Recent::new(most);
            for (insert, number) in steps {
                if insert {
                    recent.insert(block(number));
                    prop_assert!(recent.contains(&block(number)));
                } else {
                    recent.remove(&block(number));
                    prop_assert!(!recent.contains(&block(number)));
                }
                prop_assert!(recent.len() <= most);
                prop_assert!(recent.order.len() <= 2 * most + 1);
            }
        }
    }
}
