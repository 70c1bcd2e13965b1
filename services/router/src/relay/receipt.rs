//! The last message of an answer: finish reason, usage, receipt.

use std::time::Duration;

use kr_contract::{Exactness, FinishReason};
use kr_proto::serve as pb;

use crate::record::{Outcome, Record};
use crate::sequence::Finished;

/// Puts together what is known at the end of an answer.
pub(super) fn finish(record: &Record, outcome: &Outcome<'_>) -> pb::Finish {
    let figures = outcome.figures();
    let reason = match outcome.finish_reason() {
        FinishReason::Stop => pb::FinishReason::Stop,
        FinishReason::Length => pb::FinishReason::Length,
        FinishReason::Cancelled => pb::FinishReason::Cancelled,
        FinishReason::Error => pb::FinishReason::Error,
    };
    let (prompt_tokens, completion_tokens) = (record.prompt_tokens(), record.generated());
    pb::Finish {
        reason: reason.into(),
        usage: Some(pb::Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            cached_tokens: figures.map_or(0, |figures| figures.cached_tokens),
        }),
        receipt: Some(receipt(record, figures)),
    }
}

fn receipt(record: &Record, figures: Option<&Finished>) -> pb::Receipt {
    let times = record.times();
    let accepted = record.acceptance();
    let duration = |time: Duration| prost_types::Duration::try_from(time).ok();
    let exactness = accepted.map_or(pb::Exactness::Unspecified, |accepted| match accepted.exactness {
        Exactness::Invariant => pb::Exactness::Invariant,
        Exactness::Close => pb::Exactness::Close,
    });
    let prefill = figures.map(|figures| figures.waiting + figures.prefill);
    let decode = figures.map(|figures| figures.decode);
    pb::Receipt {
        queue_time: duration(times.queue),
        prefill_time: prefill.or(times.prefill).and_then(duration),
        decode_time: decode.or(times.decode).and_then(duration),
        stall_time: duration(times.stall),
        total_time: duration(times.total),
        time_to_first_token: times.to_first_token.and_then(duration),
        cached_tokens: figures.map_or(0, |figures| figures.cached_tokens),
        cache_copy_time: figures.and_then(|figures| duration(figures.copy_time)),
        cache_copy_bytes: figures.map_or(0, |figures| figures.copied_bytes),
        coalesced: false,
        coalesced_tokens: 0,
        mean_batch_size: figures.map_or(0.0, |figures| figures.mean_batch_size),
        max_batch_size: figures.map_or(0, |figures| figures.max_batch_size),
        worker: accepted.map(|accepted| accepted.worker.to_string()).unwrap_or_default(),
        attempts: accepted.map_or(0, |accepted| accepted.attempts),
        seed: record.seed(),
        exactness: exactness.into(),
        replayed: None,
        numerics_fingerprint: accepted
            .map(|accepted| accepted.numerics_fingerprint.to_string())
            .unwrap_or_default(),
        model_digest: accepted
            .map(|accepted| accepted.model_digest.to_string())
            .unwrap_or_default(),
        preemptions: figures.map_or(0, |figures| figures.preemptions),
    }
}
