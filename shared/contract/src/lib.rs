//! What router and worker must agree on, and nothing else: ids, sampling parameters, the random number of a token,
//! the hash of a KV block and its salt, and the numerics fingerprint. Each comes with test vectors, so that another
//! implementation can be held to them. Knows no transport, no model and no clock.

#![forbid(unsafe_code)]

mod block_hash;
mod cache_salt;
mod fingerprint;
mod finish;
mod id;
mod random;
mod sampling;

pub use block_hash::{BlockHash, BlockHasher, HASH_SCHEME};
pub use cache_salt::block_salt;
pub use fingerprint::{Exactness, NumericsFingerprint};
pub use finish::FinishReason;
pub use id::{ParseIdError, RequestId, SequenceId, TokenId, WorkerInstanceId};
pub use random::{philox4x32, token_uniform};
pub use sampling::{SamplingError, SamplingParams};
