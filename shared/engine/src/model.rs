//! What the engine asks of a model: run one step over many sequences, and move KV between slots and blocks.
//!
//! KV contract. A sequence lives in one *slot*; KV index = absolute position, no padding to the left. Slots come in length
//! *buckets*; [`Model::promote`] moves a slot to a longer one, copying once. What lies in a slot beyond the positions
//! written since [`Model::acquire`] can reach no sum, be it garbage or NaN. Beside the slots there is a store of fixed-size
//! *blocks*: a prefix hit copies blocks into a slot ([`Model::copy_in`]), saving copies them out ([`Model::copy_out`]).
//! The engine decides what lies where; the model only does it.
//!
//! [`Model::submit`] and [`Model::wait`] are apart so that a step can be queued before the one before it is read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kr_contract::{SamplingParams, SequenceId, TokenId};

/// A place for one sequence's KV, numbered from 0 below [`ModelLimits::max_sequences`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A place for one block's KV in the model's block store, numbered from 0 below [`ModelLimits::store_blocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Index into [`ModelLimits::bucket_tokens`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId(pub u8);

/// What a loaded model can hold. Constant while it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimits {
    /// Longest sequence, prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Sequences that may hold a slot at once.
    pub max_sequences: u32,
    /// Capacity of a slot of each bucket in tokens, ascending; the last one is at least `context_tokens`.
    pub bucket_tokens: Vec<u32>,
    /// Bytes of KV that one token takes in a slot.
    pub kv_bytes_per_token: u64,
    /// Bytes that all slots together may take.
    pub kv_budget_bytes: u64,
    /// Tokens in one block of the store.
    pub block_tokens: u32,
    /// Blocks the store can hold; 0 where there is none.
    pub store_blocks: u32,
    /// Steps that may be submitted before the oldest is waited for, less one: 0 or 1.
    pub pipeline_depth: u32,
}

impl ModelLimits {
    /// Returns the smallest bucket whose slots hold `tokens`, or `None` where none does.
    #[must_use]
    pub fn bucket_for(&self, tokens: u32) -> Option<BucketId> {
        let index = self.bucket_tokens.iter().position(|capacity| *capacity >= tokens)?;
        u8::try_from(index).ok().map(BucketId)
    }

    /// Returns the bytes of KV that a slot of `bucket` takes.
    #[must_use]
    pub fn slot_bytes(&self, bucket: BucketId) -> u64 {
        let tokens = self
            .bucket_tokens
            .get(usize::from(bucket.0))
            .copied()
            .unwrap_or(u32::MAX);
        u64::from(tokens) * self.kv_bytes_per_token
    }
}

/// Everything one step computes. Entries are independent of each other; a sequence appears at most once.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPlan {
    /// Counts up by one; the first step is 1.
    pub step: u64,
    /// What each sequence adds; decodes first, then prefill chunks.
    pub entries: Vec<PlanEntry>,
}

impl StepPlan {
    /// Returns the input tokens of all entries together.
    #[must_use]
    pub fn input_tokens(&self) -> usize {
        self.entries.iter().map(|entry| entry.input.len()).sum()
    }
}

/// What one sequence adds to a step.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEntry {
    /// Whose tokens these are.
    pub sequence: SequenceId,
    /// Where its KV lives.
    pub slot: SlotId,
    /// Absolute position of the first input token; everything before it is in the slot.
    pub start: u32,
    /// The tokens to run.
    pub input: Input,
    /// How to choose the token after the last input token; `None` where the prompt goes on.
    pub sample: Option<Sample>,
    /// Log probabilities wanted for known tokens; `None` for none.
    pub score: Option<Score>,
}

/// How likely the model finds tokens that are known already: a prompt's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// The most likely tokens to report beside each.
    pub top: u32,
    /// What follows each input token, in the same order. The last input token of a prompt has none: one target less.
    pub targets: Vec<TokenId>,
}

/// The tokens one entry runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Known ids: a prefill chunk, or one decoded token.
    Tokens(Vec<TokenId>),
    /// The token which the step before sampled for this slot and which has not been read yet (pipelining). Where that step
    /// could choose none, any token will do: the sequence has ended.
    Pending,
}

impl Input {
    /// Returns how many tokens these are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Pending => 1,
        }
    }

    /// Returns whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How to choose one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The sequence's settings.
    pub params: Arc<SamplingParams>,
    /// Index of the token among all generated ones (those emitted before a replay included): the position of its random
    /// number.
    pub position: u32,
    /// Ids that must not be chosen now (end tokens below `min_tokens`).
    pub forbidden: Arc<[TokenId]>,
    /// What penalties look at; `None` where the settings have none. Such a sequence is never planned as [`Input::Pending`]:
    /// its history must hold every token before this one.
    pub history: Option<Arc<TokenHistory>>,
}

/// Which tokens a sequence has, and how often each was generated (emitted before a replay included).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenHistory {
    generated: HashMap<TokenId, u32>,
}

impl TokenHistory {
    /// Returns whether these settings look at what a sequence has already.
    #[must_use]
    pub fn is_needed(params: &SamplingParams) -> bool {
        params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0
    }

    /// Notes a prompt's tokens.
    pub fn add_prompt(&mut self, ids: &[TokenId]) {
        for id in ids {
            self.generated.entry(*id).or_default();
        }
    }

    /// Notes one generated token.
    pub fn add_generated(&mut self, id: TokenId) {
        *self.generated.entry(id).or_default() += 1;
    }

    /// Returns every token seen with the number of times it was generated: 0 where only the prompt has it. In no order.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, u32)> {
        self.generated.iter().map(|(id, count)| (*id, *count))
    }
}

/// What a step chose, in the order of the plan's entries that had a [`Sample`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    /// One for each sampled entry.
    pub sampled: Vec<Sampled>,
    /// One for each entry with a [`Score`], in the plan's order.
    pub scored: Vec<Scored>,
}

/// How likely known tokens were.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Whose they are.
    pub sequence: SequenceId,
    /// One for each target.
    pub logprobs: Vec<Logprobs>,
}

/// One chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Whose it is.
    pub sequence: SequenceId,
    /// The token, or why none could be chosen (logits that are not finite): ends that sequence alone.
    pub token: Result<TokenId, SampleError>,
    /// Natural log probabilities, where they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model computed NaN or infinity for this sequence.
    #[error("the model's logits are not finite; check the weights and the configured dtype")]
    NotFinite,
}

/// Log probabilities of one position, before temperature and filters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logprobs {
    /// The chosen token's.
    pub chosen: f32,
    /// The most likely tokens and theirs, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

/// What a copy between slots and blocks cost; goes into the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyCost {
    /// Bytes moved.
    pub bytes: u64,
    /// Time the copy took, or was queued in where the backend is asynchronous.
    pub elapsed: Duration,
}

/// A loaded model. Lives on one thread, the engine's, from load to drop.
pub trait Model {
    /// A submitted step.
    type Ticket;

    /// Returns what the model can hold.
    fn limits(&self) -> &ModelLimits;

    /// Gives `slot`, free until now, the capacity of `bucket`. Nothing a former owner left can reach a sum.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`] when the backend has no memory; the slot stays free.
    fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<(), ModelError>;

    /// Moves `slot` to a longer bucket; KV at positions below `written` is kept, what open steps write included: they come
    /// before the copy.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`]: the slot is unchanged.
    fn promote(&mut self, slot: SlotId, bucket: BucketId, written: u32) -> Result<CopyCost, ModelError>;

    /// Frees `slot`. Called once no submitted step uses it.
    fn release(&mut self, slot: SlotId);

    /// Copies stored blocks to the start of `slot`, the first to position 0.
    ///
    /// # Errors
    /// [`ModelError::NoBlockStore`] where the model keeps none.
    fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<CopyCost, ModelError>;

    /// Copies the block of `slot` that starts at position `start` (a multiple of `block_tokens`, fully written) to `block`.
    ///
    /// # Errors
    /// [`ModelError::NoBlockStore`] where the model keeps none.
    fn copy_out(&mut self, slot: SlotId, start: u32, block: BlockId) -> Result<CopyCost, ModelError>;

    /// Queues one step. At most `pipeline_depth + 1` tickets are open at once.
    ///
    /// # Errors
    /// The step was not queued and no KV was written that could reach a sum later.
    fn submit(&mut self, plan: &StepPlan) -> Result<Self::Ticket, ModelError>;

    /// Waits for the oldest open step and returns what it chose.
    ///
    /// # Errors
    /// The backend failed: every sequence of that step is lost, and the model must be dropped.
    fn wait(&mut self, ticket: Self::Ticket) -> Result<StepOutput, ModelError>;
}

/// Why a model could not do what the engine asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The backend has no memory for this.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The model keeps no block store.
    #[error("this model keeps no block store")]
    NoBlockStore,
    /// The engine broke the contract above: a bug.
    #[error("the engine broke the model's contract: {0}")]
    Contract(String),
    /// The backend failed.
    #[error("the backend failed")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}
