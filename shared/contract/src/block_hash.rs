//! The name of a KV block: a hash chain over token ids, so that equal names mean equal prefixes.
//!
//! `hash(n) = SHA-256(hash(n-1) ‖ ids of block n, little endian)`, the first 16 bytes; `hash(-1)` is the first 16 bytes of
//! `SHA-256("kr-block-v1" ‖ salt)`. The salt keeps tenants apart: without knowing it nobody can name a block. A
//! cryptographic hash, because a made collision would show one tenant another's context.

use sha2::{Digest, Sha256};

use crate::TokenId;

/// Name of this scheme in Hello; two processes with other schemes must not compare hashes.
pub const HASH_SCHEME: &str = "kr-block-v1";

/// The name of one full KV block together with everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 16]);

/// Names the full blocks of a prompt, one after another.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    parent: BlockHash,
}

impl BlockHasher {
    /// Starts a chain under `salt`, which is [`block_salt`](crate::block_salt)'s.
    #[must_use]
    pub fn new(salt: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(HASH_SCHEME).chain_update(salt).finalize();
        Self {
            parent: truncate(&digest),
        }
    }

    /// Returns the name of the next block, whose ids are `block`.
    pub fn push(&mut self, block: &[TokenId]) -> BlockHash {
        let mut hasher = Sha256::new().chain_update(self.parent.0);
        for id in block {
            hasher.update(id.to_le_bytes());
        }
        self.parent = truncate(&hasher.finalize());
        self.parent
    }
}

fn truncate(digest: &[u8]) -> BlockHash {
    let mut name = [0; 16];
    name.copy_from_slice(&digest[..16]);
    BlockHash(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: BlockHash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Made independently with Python's hashlib.
    #[test]
    fn chain_gives_the_test_vectors() {
        let mut hasher = BlockHasher::new(b"");
        assert_eq!(hex(hasher.push(&[1, 2, 3, 4])), "5faf533354c44c05b940c602f1357636");
        assert_eq!(hex(hasher.push(&[5, 6, 7, 8])), "5452a6a20d65361064c26a67eea183d7");
        assert_eq!(
            hex(BlockHasher::new(b"tenant").push(&[1, 2, 3, 4])),
            "4ac38ad74699344e546917ed21c4001e"
        );
    }

    #[test]
    fn a_block_is_named_by_everything_before_it() {
        let mut one = BlockHasher::new(b"salt");
        let mut other = BlockHasher::new(b"salt");
        one.push(&[1]);
        other.push(&[2]);
        assert_ne!(one.push(&[3]), other.push(&[3]));
    }
}
