//! What the engine may hold and do at once, and what it keeps for later requests.

use std::time::Duration;

use kr_boot::config::{Problem, Validate, duration};
use serde::{Deserialize, Serialize};

/// What the engine may hold and do at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    /// Sequences that run at once.
    pub(crate) max_sequences: u32,
    /// Sequences that may wait in the engine.
    pub(crate) max_waiting: u32,
    /// Input tokens of one step.
    pub(crate) max_step_tokens: u32,
    /// Longest sequence; by default the model's own limit, or what the memory for KV holds.
    pub(crate) max_context_tokens: Option<u32>,
    /// Memory for KV, the prefix cache included; by default measured when the model is loaded.
    pub(crate) kv_budget_bytes: Option<u64>,
    /// Times a sequence may lose its KV to older ones; then it keeps what it has.
    pub(crate) max_preemptions: u32,
    /// How long a step may take while sequences decode: prompts take part only as far as that allows. 0: no bound.
    #[serde(with = "duration")]
    pub(crate) decode_step_target: Duration,
    /// Steps queued behind the running one, 0 or 1; by default what suits the backend.
    pub(crate) pipeline_depth: Option<u32>,
}

/// The KV that is kept for requests that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrefixCacheConfig {
    /// Blocks that are kept; by default as many as a quarter of the memory for KV holds. 0: none.
    pub(crate) blocks: Option<u32>,
    /// Tokens of one block: prefixes are shared in whole blocks.
    pub(crate) block_tokens: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let scheduler = kr_engine::scheduler::SchedulerConfig::default();
        Self {
            max_sequences: 32,
            max_waiting: 1024,
            max_step_tokens: 512,
            max_context_tokens: None,
            kv_budget_bytes: None,
            max_preemptions: scheduler.max_preemptions,
            decode_step_target: scheduler.decode_step_target.unwrap_or_default(),
            pipeline_depth: None,
        }
    }
}

impl Default for PrefixCacheConfig {
    fn default() -> Self {
        Self {
            blocks: None,
            block_tokens: 32,
        }
    }
}

impl LimitsConfig {
    /// Returns the bound of a step with decodes, if there is one.
    pub(crate) fn decode_step_target(&self) -> Option<Duration> {
        Some(self.decode_step_target).filter(|target| !target.is_zero())
    }
}

impl Validate for LimitsConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut positive = |key: &str, value: u64, cure: &str| {
            if value == 0 {
                problems.push(Problem::new(key, value, "expected 1 or more", cure));
            }
        };
        positive("max_sequences", self.max_sequences.into(), "set it to 32 (the default)");
        positive("max_waiting", self.max_waiting.into(), "set it to 1024 (the default)");
        positive(
            "max_step_tokens",
            self.max_step_tokens.into(),
            "set it to 512 (the default)",
        );
        positive(
            "kv_budget_bytes",
            self.kv_budget_bytes.unwrap_or(1),
            "leave it out to have it measured",
        );
        positive(
            "max_context_tokens",
            self.max_context_tokens.unwrap_or(1).into(),
            "leave it out for the model's own limit",
        );
        if let Some(depth) = self.pipeline_depth.filter(|depth| *depth > 1) {
            problems.push(Problem::new("pipeline_depth", depth, "expected 0 or 1", "leave it out"));
        }
        problems
    }
}

impl Validate for PrefixCacheConfig {
    fn validate(&self) -> Vec<Problem> {
        const MOST: u32 = 1024;
        if (1..=MOST).contains(&self.block_tokens) {
            return Vec::new();
        }
        let message = format!("expected 1 to {MOST}");
        vec![Problem::new(
            "block_tokens",
            self.block_tokens,
            message,
            "set it to 32 (the default)",
        )]
    }
}
