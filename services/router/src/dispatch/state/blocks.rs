//! The names that a worker's prefix cache would have for a prompt.

use std::sync::Arc;

use kr_contract::{BlockHash, BlockHasher, HASH_SCHEME};

use super::State;
use crate::dispatch::slot::Slot;
use crate::sequence::SequenceRequest;

/// Blocks of a prompt that are named. Further ones tell workers apart no better, and naming them would hold up the loop.
const MOST_BLOCKS: usize = 512;

/// A prompt's blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) names: Arc<[BlockHash]>,
    /// Tokens of each.
    pub(super) tokens: u32,
}

impl State {
    /// Names the blocks of a prompt that could be found in a cache: all full ones before its last token, which is computed in
    /// any case. None where no policy looks, the request wants no cache, or no ready worker names blocks as this process does.
    pub(super) fn blocks_of(&self, request: &SequenceRequest) -> Blocks {
        let mut profiles = self
            .slots
            .iter()
            .filter(|slot| slot.is_ready())
            .filter_map(Slot::profile);
        let profile = profiles.find(|profile| profile.hash_scheme == HASH_SCHEME && profile.block_tokens > 0);
        let wanted = self.policy.wants_blocks() && !request.bypass_prefix_cache;
        let tokens = profile.filter(|_| wanted).map_or(0, |profile| profile.block_tokens);
        let mut hasher = BlockHasher::new(&request.cache_salt);
        let reusable = request.prompt.len().saturating_sub(1);
        let full = request.prompt.get(..reusable).unwrap_or_default();
        let names = match tokens {
            0 => Arc::default(),
            tokens => full
                .chunks_exact(tokens as usize)
                .take(MOST_BLOCKS)
                .map(|block| hasher.push(block))
                .collect(),
        };
        Blocks { names, tokens }
    }
}
