//! What a worker says of itself in its hello.

use std::sync::Arc;
use std::time::Duration;

use kr_contract::{NumericsFingerprint, TokenId, WorkerInstanceId};

/// Constant for one life of a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkerProfile {
    pub(crate) instance: WorkerInstanceId,
    pub(crate) model_digest: Arc<str>,
    pub(crate) tokenizer_digest: Arc<str>,
    pub(crate) fingerprint: NumericsFingerprint,
    /// The fingerprint as text, made once.
    pub(crate) fingerprint_text: Arc<str>,
    /// Longest sequence, prompt and answer together.
    pub(crate) context_tokens: u32,
    pub(crate) block_tokens: u32,
    pub(crate) hash_scheme: String,
    pub(crate) kv_budget_bytes: u64,
    pub(crate) kv_bytes_per_token: u64,
    /// Capacities of the places a sequence's KV may take, ascending.
    pub(crate) bucket_tokens: Vec<u32>,
    pub(crate) max_sequences: u32,
    pub(crate) architecture: Arc<str>,
    pub(crate) parameter_count: u64,
    /// Type of the weights as stored, in words.
    pub(crate) weights: Arc<str>,
    pub(crate) vocabulary_size: u32,
    pub(crate) mapped_bytes: u64,
    pub(crate) copied_bytes: u64,
    pub(crate) load_time: Duration,
    pub(crate) process_id: u32,
    pub(crate) max_step_tokens: u32,
    pub(crate) end_token_ids: Vec<TokenId>,
    /// How fast it was before its first request, where it measured that.
    pub(crate) speed: Option<Speed>,
}

/// How fast a worker was when it warmed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    /// Time of one prompt token in a long prompt.
    pub(crate) prefill_token: Duration,
    /// Time of a step that decodes as many sequences as may run at once.
    pub(crate) batch_decode_step: Duration,
}
