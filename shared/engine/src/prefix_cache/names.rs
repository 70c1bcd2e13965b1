//! The names of one sequence's full blocks, each made once: those of the prompt at admission, later ones as they fill.

use kr_contract::{BlockHash, BlockHasher, TokenId};

#[derive(Debug)]
pub(crate) struct BlockNames {
    hasher: BlockHasher,
    block_tokens: usize,
    names: Vec<BlockHash>,
}

impl BlockNames {
    /// `block_tokens` is at least 1.
    pub(crate) fn new(salt: &[u8], block_tokens: usize) -> Self {
        Self {
            hasher: BlockHasher::new(salt),
            block_tokens: block_tokens.max(1),
            names: Vec::new(),
        }
    }

    /// Names the full blocks of `tokens`, a continuation of what was named before.
    pub(crate) fn extend(&mut self, tokens: &[TokenId]) {
        let named = self.names.len() * self.block_tokens;
        let blocks = tokens.get(named..).unwrap_or_default().chunks_exact(self.block_tokens);
        self.names.extend(blocks.map(|block| self.hasher.push(block)));
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Returns the names of the full blocks among the first `tokens` tokens, as far as they are named.
    pub(crate) fn within(&self, tokens: usize) -> &[BlockHash] {
        let blocks = (tokens / self.block_tokens).min(self.names.len());
        self.names.get(..blocks).unwrap_or_default()
    }
}
