//! What changed since a listener was told last, net: a block that came and went in between is not mentioned.

use std::collections::BTreeMap;

use kr_contract::BlockHash;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Evicted,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    blocks: BTreeMap<BlockHash, Change>,
}

impl Changes {
    pub(super) fn added(&mut self, name: BlockHash) {
        self.note(name, Change::Added);
    }

    pub(super) fn evicted(&mut self, name: BlockHash) {
        self.note(name, Change::Evicted);
    }

    /// Two changes of one block are opposite ones: together they are none.
    fn note(&mut self, name: BlockHash, change: Change) {
        if self.blocks.remove(&name).is_none() {
            self.blocks.insert(name, change);
        }
    }

    /// Returns the added and the evicted ones, and forgets them.
    pub(super) fn take(&mut self) -> (Vec<BlockHash>, Vec<BlockHash>) {
        let blocks = std::mem::take(&mut self.blocks);
        let of = |wanted| {
            let found = blocks.iter().filter(move |(_, change)| **change == wanted);
            found.map(|(name, _)| *name).collect()
        };
        (of(Change::Added), of(Change::Evicted))
    }
}
