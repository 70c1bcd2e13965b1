//! What changes single logits before the temperature: bias, penalties, forbidden ids.

use std::collections::BTreeMap;

use kr_contract::{SamplingParams, TokenId};
use kr_engine::model::Sample;

/// Whether `sample` changes any logit.
pub(super) fn adjusts(sample: &Sample) -> bool {
    !sample.params.logit_bias.is_empty() || sample.history.is_some() || !sample.forbidden.is_empty()
}

/// Changes one row of logits. Ids outside the vocabulary are ignored.
pub(super) fn adjust(logits: &mut [f32], sample: &Sample) {
    for (id, bias) in &sample.params.logit_bias {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit += bias;
        }
    }
    for (id, generated) in sample.history.iter().flat_map(|history| history.iter()) {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = repeated(*logit, sample.params.repetition_penalty) - subtracted(&sample.params, generated);
        }
    }
    for id in sample.forbidden.iter() {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn repeated(logit: f32, penalty: f32) -> f32 {
    if logit > 0.0 { logit / penalty } else { logit * penalty }
}

/// What presence and frequency penalty take from the logit of a token that was generated `generated` times.
fn subtracted(params: &SamplingParams, generated: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^24 tokens")]
    let times = generated as f32;
    let presence = if generated > 0 { params.presence_penalty } else { 0.0 };
    params.frequency_penalty * times + presence
}

/// What happens to one logit, for arrays that hold one of these for each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) bias: f32,
    pub(super) repetition_penalty: f32,
    pub(super) subtracted: f32,
    pub(super) forbidden: bool,
}

impl Change {
    const NONE: Self = Self {
        bias: 0.0,
        repetition_penalty: 1.0,
        subtracted: 0.0,
        forbidden: false,
    };
}

/// The changes of [`adjust`], by id.
pub(super) fn changes(sample: &Sample, vocabulary: TokenId) -> BTreeMap<TokenId, Change> {
    let mut changes: BTreeMap<TokenId, Change> = BTreeMap::new();
    let mut change = |id, apply: &dyn Fn(&mut Change)| {
        if id < vocabulary {
            apply(changes.entry(id).or_insert(Change::NONE));
        }
    };
    for (id, bias) in &sample.params.logit_bias {
        change(*id, &|change| change.bias += bias);
    }
    for (id, generated) in sample.history.iter().flat_map(|history| history.iter()) {
        change(id, &|change| {
            change.repetition_penalty = sample.params.repetition_penalty;
            change.subtracted = subtracted(&sample.params, generated);
        });
    }
    for id in sample.forbidden.iter() {
        change(*id, &|change| change.forbidden = true);
    }
    changes
}
