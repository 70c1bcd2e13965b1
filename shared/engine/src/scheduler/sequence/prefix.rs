//! What one sequence has to do with the prefix cache.

use kr_contract::{BlockHash, TokenId};

use crate::prefix_cache::BlockNames;

#[derive(Debug)]
pub(in crate::scheduler) struct Prefix {
    /// Of the full blocks among its tokens.
    pub(in crate::scheduler) names: BlockNames,
    /// Whether blocks may be taken from the cache.
    pub(in crate::scheduler) reads: bool,
    /// Whether its blocks go to the cache: not any more once one found no place, for those after it would be out of reach.
    pub(in crate::scheduler) saves: bool,
    /// Blocks from the start that are in the cache, or were when it was their turn.
    pub(in crate::scheduler) saved: usize,
}

impl Prefix {
    pub(super) fn new(salt: &[u8], block_tokens: u32, tokens: &[TokenId]) -> Self {
        let mut names = BlockNames::new(salt, super::index(block_tokens));
        names.extend(tokens);
        Self {
            names,
            reads: true,
            saves: true,
            saved: 0,
        }
    }

    /// Returns the names of the blocks among the first `tokens` tokens.
    pub(in crate::scheduler) fn within(&self, tokens: u32) -> &[BlockHash] {
        self.names.within(super::index(tokens))
    }

    /// Returns how many tokens so many blocks hold.
    pub(in crate::scheduler) fn tokens(&self, blocks: usize) -> u32 {
        crate::count(blocks * self.names.block_tokens())
    }
}
