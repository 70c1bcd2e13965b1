//! What the engine is asked to generate, and why it may refuse.

use std::sync::Arc;
use std::time::Duration;

use kr_contract::{SamplingParams, SequenceId, TokenId};

/// One sequence to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceRequest {
    /// Unique within a session.
    pub id: SequenceId,
    /// The prompt; not empty.
    pub prompt: Vec<TokenId>,
    /// Generated and delivered before a replay: prefilled with the prompt, but counted as generated (random position,
    /// `min_tokens`, penalties).
    pub emitted: Vec<TokenId>,
    /// Tokens that may still be generated, beyond `emitted`; at least 1.
    pub max_tokens: u32,
    /// The model's end tokens; they end the sequence unless `sampling.ignore_eos`.
    pub end_ids: Vec<TokenId>,
    /// The client's stop tokens; they end the sequence always.
    pub stop_ids: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Arc<SamplingParams>,
    /// Higher goes first; equal ones in order of admission.
    pub priority: i32,
    /// Time left to the client's deadline when this was sent. Only carried: the router cancels.
    pub time_left: Option<Duration>,
    /// Keeps tenants' prefixes apart: blocks are found under the same salt only.
    pub cache_salt: Vec<u8>,
    /// Neither reads nor writes the prefix cache.
    pub bypass_prefix_cache: bool,
    /// Log probabilities of the prompt's tokens with this many most likely ones beside each; `None` for none. The prompt is
    /// computed whole then: nothing of it is taken from the cache.
    pub prompt_logprobs: Option<u32>,
}

impl SequenceRequest {
    /// Returns a request with default sampling, no end token and priority 0; change fields as needed.
    #[must_use]
    pub fn new(id: SequenceId, prompt: Vec<TokenId>, max_tokens: u32) -> Self {
        Self {
            id,
            prompt,
            emitted: Vec::new(),
            max_tokens,
            end_ids: Vec::new(),
            stop_ids: Vec::new(),
            sampling: Arc::new(SamplingParams::default()),
            priority: 0,
            time_left: None,
            cache_salt: Vec::new(),
            bypass_prefix_cache: false,
            prompt_logprobs: None,
        }
    }

    /// Returns the tokens known before the first step: prompt and emitted ones.
    #[must_use]
    pub fn known_tokens(&self) -> u32 {
        crate::count(self.prompt.len().saturating_add(self.emitted.len()))
    }
}

/// Why a sequence was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// Nothing to generate.
    #[error("max_tokens is 0; ask for at least 1")]
    NothingToGenerate,
    /// Prompt and emitted tokens leave no room for another one.
    #[error("{tokens} tokens leave no room in a context of {context_tokens}; shorten the prompt")]
    ContextExceeded {
        /// Prompt and emitted tokens.
        tokens: u32,
        /// The model's context.
        context_tokens: u32,
    },
    /// Would not fit the KV budget even alone.
    #[error("needs {needed_bytes} bytes of KV, the budget is {budget_bytes}; lower max_tokens or shorten the prompt")]
    KvExceeded {
        /// Bytes of the slot that holds prompt and answer.
        needed_bytes: u64,
        /// Bytes that all slots together may take.
        budget_bytes: u64,
    },
    /// The session has a live sequence of this id.
    #[error("sequence {0} is already admitted")]
    DuplicateId(SequenceId),
    /// Too many sequences wait already.
    #[error("{max_waiting} sequences are waiting already; send this one later or to another worker")]
    TooManyWaiting {
        /// The bound.
        max_waiting: u32,
    },
    /// The worker finishes what it has and admits nothing more.
    #[error("the worker is draining; send this sequence to another one")]
    Draining,
}
