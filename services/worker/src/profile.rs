//! What this worker is: told to the router in Hello, constant for the life of the process.

use std::time::Duration;

use kr_contract::{NumericsFingerprint, WorkerInstanceId};
use kr_engine::WarmUp;
use kr_engine::model::ModelLimits;

/// What this worker is.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// This life of this process.
    pub(crate) instance: WorkerInstanceId,
    pub(crate) model: ModelFacts,
    pub(crate) limits: ModelLimits,
    /// Most input tokens of one step.
    pub(crate) max_step_tokens: u32,
    /// How fast it was before its first request, where that was measured.
    pub(crate) warm_up: Option<WarmUp>,
    /// From the process's start until the model was loaded and warm.
    pub(crate) load_time: Duration,
}

/// What is known of a model beside its limits.
#[derive(Debug, Clone)]
pub(crate) struct ModelFacts {
    /// What identifies the model, as the wire has it: 64 hexadecimal digits.
    pub(crate) digest: String,
    /// SHA-256 of tokenizer.json in the same form, empty where there is none.
    pub(crate) tokenizer_digest: String,
    pub(crate) fingerprint: NumericsFingerprint,
    /// Hugging Face's name.
    pub(crate) architecture: String,
    pub(crate) parameter_count: u64,
    /// Type of the weights as stored, in words.
    pub(crate) weights: String,
    pub(crate) vocabulary_size: u32,
    /// Bytes of weights mapped and shared with other processes.
    pub(crate) mapped_bytes: u64,
    /// Bytes of weights copied.
    pub(crate) copied_bytes: u64,
    pub(crate) end_token_ids: Vec<u32>,
}
