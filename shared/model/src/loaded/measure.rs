//! What a step takes beside weights and KV.

use std::sync::Arc;

use kr_contract::{SamplingParams, SequenceId};
use kr_engine::model::{BucketId, Input, Model, ModelError, ModelLimits, PlanEntry, Sample, SlotId, StepPlan};
use mlx_rs::memory::{active_memory, peak_memory, reset_peak_memory};
use mlx_rs::transforms;

use super::{LoadedModel, backend, contract};
use crate::kv::KvArenas;
use crate::layers::dim;
use crate::sample::{Sampler, device};
use crate::step::indices;

/// A step to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WidestStep {
    /// Input tokens, of one sequence.
    pub(crate) tokens: u32,
    /// Rows of logits.
    pub(crate) rows: u32,
}

impl WidestStep {
    /// Returns limits with one slot, just long enough.
    pub(crate) fn limits(self, limits: &ModelLimits) -> Option<ModelLimits> {
        let bucket = limits.bucket_for(self.tokens)?;
        Some(ModelLimits {
            max_sequences: 1,
            kv_budget_bytes: limits.slot_bytes(bucket),
            store_blocks: 0,
            ..limits.clone()
        })
    }
}

impl LoadedModel {
    /// Runs `step` on slot 0, which must be free, and returns the bytes that MLX took at its peak beside what it had before and the
    /// slot's.
    pub(crate) fn workspace(&mut self, step: WidestStep) -> Result<u64, ModelError> {
        let bucket: BucketId = self
            .limits
            .bucket_for(step.tokens)
            .ok_or_else(|| contract(format!("no slot holds {} tokens", step.tokens)))?;
        let before = active_memory().map_err(backend)?;
        reset_peak_memory().map_err(backend)?;
        self.acquire(SlotId(0), bucket)?;
        let entry = PlanEntry {
            sequence: SequenceId(0),
            slot: SlotId(0),
            start: 0,
            input: Input::Tokens(vec![0; step.tokens as usize]),
            sample: None,
            score: None,
        };
        let hidden = self.run(&StepPlan {
            step: 0,
            entries: vec![entry],
        })?;
        let rows = step.rows.min(step.tokens) as usize;
        let last_tokens = indices((0..dim(rows)).collect());
        let logits = self.logits(&hidden.take_axis(last_tokens, 0).map_err(backend)?)?;
        match self.sampler {
            Sampler::Host => logits.eval(),
            Sampler::Device => device::choose(&logits, &vec![filtered(); rows])
                .and_then(|chosen| transforms::eval([&logits, &chosen.tokens, &chosen.finite])),
        }
        .map_err(backend)?;
        self.release(SlotId(0));
        let peak = peak_memory().map_err(backend)?;
        Ok((peak.saturating_sub(before) as u64).saturating_sub(self.limits.slot_bytes(bucket)))
    }

    /// Replaces KV memory, of which no slot is in use, and what it can hold.
    pub(crate) fn replace_kv(&mut self, kv: KvArenas, limits: ModelLimits) {
        self.kv = kv;
        self.limits = limits;
    }
}

/// What takes most memory to sample by.
fn filtered() -> Sample {
    Sample {
        params: Arc::new(SamplingParams {
            top_k: 2,
            top_p: 0.5,
            ..SamplingParams::default()
        }),
        position: 0,
        forbidden: Arc::default(),
        history: None,
    }
}
