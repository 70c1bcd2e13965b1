//! Which prefixes lie in the model's block store: full blocks under their names, reference counts, and the least recently
//! used one going first. Knows names and places; no tokens, no slots, no sequences.
//!
//! A block can be hit from the moment its copy was made ([`PrefixCache::written`]) until it is evicted. Only a block without
//! children and without a copy under way is evicted, so that every block there is can be reached from the start of its chain.

mod changes;
mod names;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use kr_contract::BlockHash;

use crate::model::BlockId;

use changes::Changes;
pub(crate) use names::BlockNames;

/// Where one block lies, and what keeps it there.
#[derive(Debug)]
struct Block {
    place: BlockId,
    parent: Option<BlockHash>,
    /// Blocks whose parent this is.
    children: u32,
    /// Copies under way, into a slot or into the store.
    pins: u32,
    /// Its copy into the store was made.
    is_written: bool,
    last_used: u64,
}

impl Block {
    fn may_go(&self) -> bool {
        self.is_written && self.pins == 0 && self.children == 0
    }
}

/// What came of the wish to store a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is there, or on its way.
    Known,
    /// Copy it here, then say [`PrefixCache::written`] or [`PrefixCache::lost`].
    At(BlockId),
    /// Nothing may go for it, or its parent is gone.
    None,
}

/// The cache; see the module.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    free: Vec<BlockId>,
    blocks: HashMap<BlockHash, Block>,
    places: HashMap<BlockId, BlockHash>,
    /// Blocks that may go, by when they were used last.
    evictable: BTreeSet<(u64, BlockHash)>,
    clock: u64,
    store_blocks: u32,
    changes: Changes,
}

impl PrefixCache {
    pub(crate) fn new(store_blocks: u32) -> Self {
        Self {
            free: (0..store_blocks).rev().map(BlockId).collect(),
            blocks: HashMap::new(),
            places: HashMap::new(),
            evictable: BTreeSet::new(),
            clock: 0,
            store_blocks,
            changes: Changes::default(),
        }
    }

    pub(crate) fn store_blocks(&self) -> u32 {
        self.store_blocks
    }

    /// Returns how many blocks lie in the store or are on their way.
    pub(crate) fn used_blocks(&self) -> u32 {
        crate::count(self.blocks.len())
    }

    /// Returns how many blocks at the start of a chain can be hit.
    pub(crate) fn cached(&self, chain: &[BlockHash]) -> usize {
        let is_written = |name: &&BlockHash| self.blocks.get(name).is_some_and(|block| block.is_written);
        chain.iter().take_while(is_written).count()
    }

    /// Pins the blocks of a chain that can be hit, and returns where they lie: they stay until [`Self::unpin`].
    pub(crate) fn pin(&mut self, chain: &[BlockHash]) -> Vec<BlockId> {
        let hit = self.cached(chain);
        self.clock += 1;
        let clock = self.clock;
        let pin = |block: &mut Block| {
            block.pins += 1;
            block.last_used = clock;
            block.place
        };
        let chain = chain.iter().take(hit);
        chain.filter_map(|name| self.change(*name, pin)).collect()
    }

    /// Lets go of pinned blocks.
    pub(crate) fn unpin(&mut self, places: &[BlockId]) {
        for place in places {
            if let Some(name) = self.places.get(place).copied() {
                self.change(name, |block| block.pins = block.pins.saturating_sub(1));
            }
        }
    }

    /// Finds a place for the block `name`, which follows `parent`; evicts another block where it must.
    pub(crate) fn place(&mut self, parent: Option<BlockHash>, name: BlockHash) -> Place {
        self.clock += 1;
        let clock = self.clock;
        if self.change(name, |block| block.last_used = clock).is_some() {
            return Place::Known;
        }
        if parent.is_some_and(|parent| !self.blocks.contains_key(&parent)) {
            return Place::None;
        }
        let Some(place) = self.free.pop().or_else(|| self.evict(parent)) else {
            return Place::None;
        };
        if let Some(parent) = parent {
            self.change(parent, |block| {
                block.children += 1;
                block.last_used = clock;
            });
        }
        self.places.insert(place, name);
        self.blocks.insert(
            name,
            Block {
                place,
                parent,
                children: 0,
                pins: 1,
                is_written: false,
                last_used: clock,
            },
        );
        Place::At(place)
    }

    /// Notes that the block at `place` was copied there, and returns its name: it can be hit from now on.
    pub(crate) fn written(&mut self, place: BlockId) -> Option<BlockHash> {
        let name = self.places.get(&place).copied()?;
        let parent = self.blocks.get(&name)?.parent;
        if parent.is_some_and(|parent| self.cached(&[parent]) == 0) {
            // Its parent's copy failed: nothing would ever find it.
            return self.lost(place);
        }
        self.change(name, |block| {
            block.is_written = true;
            block.pins = block.pins.saturating_sub(1);
        });
        self.changes.added(name);
        Some(name)
    }

    /// Notes that the copy to `place` failed, and returns the name of the block that is not there.
    pub(crate) fn lost(&mut self, place: BlockId) -> Option<BlockHash> {
        let name = self.places.get(&place).copied()?;
        self.remove(name);
        Some(name)
    }

    /// Returns the blocks that can be hit, and those that no longer can, since the last call: no block is in both.
    pub(crate) fn take_changes(&mut self) -> (Vec<BlockHash>, Vec<BlockHash>) {
        self.changes.take()
    }

    /// Reports everything that can be hit once more, to a listener that knows nothing yet.
    pub(crate) fn restate(&mut self) {
        self.changes = Changes::default();
        for (name, block) in &self.blocks {
            if block.is_written {
                self.changes.added(*name);
            }
        }
    }

    /// Frees the place of the least recently used block that may go and is not `kept`.
    fn evict(&mut self, kept: Option<BlockHash>) -> Option<BlockId> {
        let (_, name) = self.evictable.iter().find(|(_, name)| Some(*name) != kept).copied()?;
        self.remove(name);
        self.free.pop()
    }

    fn remove(&mut self, name: BlockHash) {
        let Some(block) = self.blocks.remove(&name) else {
            return;
        };
        self.evictable.remove(&(block.last_used, name));
        self.places.remove(&block.place);
        self.free.push(block.place);
        if block.is_written {
            self.changes.evicted(name);
        }
        if let Some(parent) = block.parent {
            self.change(parent, |block| block.children = block.children.saturating_sub(1));
        }
    }

    /// Changes a block and whether it may go.
    fn change<T>(&mut self, name: BlockHash, change: impl FnOnce(&mut Block) -> T) -> Option<T> {
        let block = self.blocks.get_mut(&name)?;
        self.evictable.remove(&(block.last_used, name));
        let result = change(block);
        if block.may_go() {
            self.evictable.insert((block.last_used, name));
        }
        Some(result)
    }
}
