//! What the engine reports: one frame per step, for all sequences together. What happens while no step runs (an accept, a
//! reject, a cancellation) comes in a frame of step 0.

use std::time::Duration;

use kr_contract::{BlockHash, FinishReason, SequenceId, TokenId};

use crate::Reject;
use crate::model::Logprobs;

/// One step's results.
#[derive(Debug, Clone, PartialEq)]
pub struct StepFrame {
    /// The step's number, from 1; 0 where no step ran.
    pub step: u64,
    /// Sequences in the step.
    pub planned_sequences: u32,
    /// Input tokens of the step, decodes and prefill together.
    pub planned_tokens: u32,
    /// From its submission, or the end of the step before where that was later, until its result was read.
    pub step_duration: Duration,
    /// How long the next step is expected to take; `None` where there is nothing to run. Never zero.
    pub next_step_expected: Option<Duration>,
    /// Sequences admitted since the frame before.
    pub accepted: Vec<SequenceId>,
    /// Sequences refused since the frame before.
    pub rejected: Vec<(SequenceId, Reject)>,
    /// News of sequences, at most one per sequence.
    pub sequences: Vec<SequenceUpdate>,
    /// What the engine holds after this step.
    pub load: Load,
    /// Prefix blocks that can be hit since the frame before.
    pub blocks_added: Vec<BlockHash>,
    /// Prefix blocks that can no longer be hit.
    pub blocks_evicted: Vec<BlockHash>,
    /// Tokens the step computed for sequences that had ended by then; in nobody's usage.
    pub wasted_tokens: u32,
}

/// News of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceUpdate {
    /// Which one.
    pub id: SequenceId,
    /// Index of the first of `ids` among all generated tokens, those emitted before a replay included.
    pub start_index: u32,
    /// New tokens, in order. The last id of a [`FinishReason::Stop`] update is the end token or stop id itself: it is not
    /// part of the answer's text, but it was generated and counts as such in the usage.
    pub ids: Vec<TokenId>,
    /// One for each of `ids` where log probabilities were asked for; otherwise empty.
    pub logprobs: Vec<Logprobs>,
    /// One for each prompt token but the first, in order, as far as this step scored them; empty unless asked for.
    pub prompt_logprobs: Vec<Logprobs>,
    /// Set on the sequence's last update.
    pub finish: Option<Finish>,
}

/// How a sequence ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// What went wrong, where something did.
    pub message: Option<String>,
    /// Where its time went.
    pub timings: Timings,
}

/// Where a sequence's time went in this engine; the worker's part of the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From admission until its first step was planned.
    pub waiting: Duration,
    /// From then until its first token was read.
    pub prefill: Duration,
    /// From then until its end.
    pub decode: Duration,
    /// Prompt tokens taken from the prefix cache when it started; what a preemption makes it take again does not count.
    pub cached_tokens: u32,
    /// Bytes of KV copied for it (promotions, prefix hits).
    pub copied_bytes: u64,
    /// Time those copies took.
    pub copy_time: Duration,
    /// Steps that ran a part of its prompt, or of all its tokens again after a preemption.
    pub prefill_chunks: u32,
    /// Steps it took part in.
    pub steps: u32,
    /// Sequences in those steps, on average, itself included.
    pub mean_batch: f32,
    /// Sequences in the largest of those steps.
    pub max_batch: u32,
    /// Times it lost its KV to others and was computed again.
    pub preemptions: u32,
}

/// What the engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Sequences that have a slot.
    pub running: u32,
    /// Sequences admitted that have none yet.
    pub waiting: u32,
    /// Running sequences whose prompt is not computed yet, or not again.
    pub prefilling: u32,
    /// Known tokens still to compute, those of open steps and of sequences without a slot included; what the prefix cache
    /// will spare a waiting one is not deducted.
    pub pending_prefill_tokens: u64,
    /// Bytes of KV that slots take.
    pub kv_used_bytes: u64,
    /// Bytes of KV that slots may take.
    pub kv_budget_bytes: u64,
    /// Blocks of the prefix cache in use.
    pub cached_blocks: u32,
    /// Blocks the prefix cache can hold; 0 where there is none.
    pub store_blocks: u32,
}
