use std::collections::BTreeSet;

use kr_contract::BlockHasher;
use proptest::prelude::*;

use super::*;

/// Names of a chain of blocks of one token each.
fn chain(ids: &[u32]) -> Vec<BlockHash> {
    let mut hasher = BlockHasher::new(b"");
    ids.iter().map(|id| hasher.push(&[*id])).collect()
}

/// Stores a chain as far as there is room; returns how many blocks of it can be hit then.
fn store(cache: &mut PrefixCache, chain: &[BlockHash]) -> usize {
    let mut parent = None;
    for name in chain {
        match cache.place(parent, *name) {
            Place::At(place) => {
                cache.written(place);
            }
            Place::Known => {}
            Place::None => break,
        }
        parent = Some(*name);
    }
    cache.cached(chain)
}

#[test]
fn the_longest_stored_prefix_is_hit() {
    let mut cache = PrefixCache::new(4);
    assert_eq!(store(&mut cache, &chain(&[1, 2, 3])), 3);
    assert_eq!(cache.cached(&chain(&[1, 2, 9])), 2);
    assert_eq!(cache.cached(&chain(&[9, 2, 3])), 0);
    assert_eq!(cache.used_blocks(), 3);
}

#[test]
fn the_least_recently_used_leaf_goes_first_and_parents_after_their_children() {
    let mut cache = PrefixCache::new(4);
    store(&mut cache, &chain(&[1, 2]));
    store(&mut cache, &chain(&[3, 4]));
    let pinned = cache.pin(&chain(&[1, 2]));
    cache.unpin(&pinned);
    store(&mut cache, &chain(&[5]));
    assert_eq!((cache.cached(&chain(&[1, 2])), cache.cached(&chain(&[3, 4]))), (2, 1));
    store(&mut cache, &chain(&[6]));
    assert_eq!((cache.cached(&chain(&[1, 2])), cache.cached(&chain(&[3, 4]))), (2, 0));
    store(&mut cache, &chain(&[7]));
    assert_eq!(cache.cached(&chain(&[1, 2])), 1);
}

#[test]
fn a_pinned_block_stays_and_a_full_store_takes_nothing() {
    let mut cache = PrefixCache::new(2);
    store(&mut cache, &chain(&[1, 2]));
    let pinned = cache.pin(&chain(&[1, 2]));
    assert_eq!(store(&mut cache, &chain(&[3])), 0);
    cache.unpin(&pinned);
    assert_eq!(store(&mut cache, &chain(&[3])), 1);
    assert_eq!(cache.cached(&chain(&[1, 2])), 1);
}

#[test]
fn a_chain_longer_than_the_store_does_not_evict_its_own_start() {
    let mut cache = PrefixCache::new(2);
    assert_eq!(store(&mut cache, &chain(&[1, 2, 3, 4])), 2);
}

#[test]
fn a_block_is_hit_only_once_its_copy_was_made() {
    let mut cache = PrefixCache::new(3);
    let names = chain(&[1, 2]);
    let Place::At(first) = cache.place(None, names[0]) else {
        panic!("there is room");
    };
    let Place::At(second) = cache.place(Some(names[0]), names[1]) else {
        panic!("there is room");
    };
    assert_eq!(cache.place(None, names[0]), Place::Known);
    assert_eq!((cache.cached(&names), cache.pin(&names)), (0, vec![]));
    cache.lost(first);
    cache.written(second);
    assert_eq!(
        (cache.cached(&names), cache.used_blocks()),
        (0, 0),
        "an orphan is not kept"
    );
    assert_eq!(cache.take_changes(), (vec![], vec![]));
    assert_eq!(cache.place(Some(names[0]), names[1]), Place::None);
}

#[test]
fn what_comes_and_goes_between_two_reports_is_not_reported() {
    let mut cache = PrefixCache::new(1);
    let (one, two) = (chain(&[1]), chain(&[2]));
    store(&mut cache, &one);
    assert_eq!(cache.take_changes(), (one.clone(), vec![]));
    store(&mut cache, &two);
    store(&mut cache, &one);
    assert_eq!(cache.take_changes(), (vec![], vec![]));
    store(&mut cache, &two);
    assert_eq!(cache.take_changes(), (two.clone(), one));
    cache.restate();
    assert_eq!(cache.take_changes(), (two, vec![]));
}

impl PrefixCache {
    /// Checks every promise of the structure and returns the names that can be hit.
    pub(crate) fn check(&self) -> BTreeSet<BlockHash> {
        let used = self.blocks.len();
        assert_eq!(used + self.free.len(), usize::try_from(self.store_blocks).unwrap());
        assert_eq!(used, self.places.len());
        for (name, block) in &self.blocks {
            assert_eq!(self.places[&block.place], *name);
            let children = self.blocks.values().filter(|other| other.parent == Some(*name));
            assert_eq!(children.count(), usize::try_from(block.children).unwrap());
            let parent = block.parent.map(|parent| self.blocks.contains_key(&parent));
            assert_ne!(parent, Some(false), "a block that nothing finds");
            assert_eq!(block.may_go(), self.evictable.contains(&(block.last_used, *name)));
        }
        let may_go = self.blocks.values().filter(|block| block.may_go()).count();
        assert_eq!(may_go, self.evictable.len());
        let written = self.blocks.iter().filter(|(_, block)| block.is_written);
        written.map(|(name, _)| *name).collect()
    }

    /// Returns how many pins there are: none while no copy is under way.
    pub(crate) fn pins(&self) -> u32 {
        self.blocks.values().map(|block| block.pins).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reports_replay_to_what_the_cache_holds(
        store_blocks in 0..6_u32,
        moves in prop::collection::vec((any::<u8>(), prop::collection::vec(0..3_u32, 1..5)), 1..80),
    ) {
        let mut cache = PrefixCache::new(store_blocks);
        let (mut replayed, mut pinned) = (BTreeSet::new(), Vec::new());
        for (kind, ids) in moves {
            match kind % 4 {
                0 | 1 => {
                    store(&mut cache, &chain(&ids));
                }
                2 => pinned.push(cache.pin(&chain(&ids))),
                _ => cache.unpin(&pinned.pop().unwrap_or_default()),
            }
            let held = cache.check();
            if kind % 8 < 5 {
                let (added, evicted) = cache.take_changes();
                added.iter().for_each(|name| assert!(replayed.insert(*name)));
                evicted.iter().for_each(|name| assert!(replayed.remove(name)));
                assert_eq!(replayed, held);
            }
        }
        pinned.iter().for_each(|places| cache.unpin(places));
        assert_eq!(cache.pins(), 0);
    }
}
