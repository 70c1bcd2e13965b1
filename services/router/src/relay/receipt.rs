//! The last message of a choice: finish reason, usage, receipt.

use std::time::Duration;

use kr_contract::{Exactness, FinishReason};
use kr_proto::serve as pb;

use crate::record::{Progress, Record};

/// Puts together what is known at the end of a choice, and after the last choice what the whole request took.
pub(super) fn finish(record: &Record, choice: &Progress) -> pb::Finish {
    let reason = match choice.end().map_or(FinishReason::Error, |end| end.reason) {
        FinishReason::Stop => pb::FinishReason::Stop,
        FinishReason::Length => pb::FinishReason::Length,
        FinishReason::Cancelled => pb::FinishReason::Cancelled,
        FinishReason::Error => pb::FinishReason::Error,
    };
    let cached = choice.figures().map_or(0, |figures| figures.cached_tokens);
    let of_all = || usage(record, record.generated_by_all(), record.cached_tokens().unwrap_or(0));
    pb::Finish {
        reason: reason.into(),
        usage: Some(usage(record, choice.generated(), cached)),
        receipt: Some(receipt(record, choice)),
        request_usage: record.all_ended().then(of_all),
    }
}

fn usage(record: &Record, completion_tokens: u32, cached_tokens: u32) -> pb::Usage {
    let prompt_tokens = record.prompt_tokens();
    pb::Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens.saturating_add(completion_tokens),
        cached_tokens,
    }
}

fn receipt(record: &Record, choice: &Progress) -> pb::Receipt {
    let (times, figures) = (record.times_of(choice), choice.figures());
    let accepted = choice.acceptance();
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
        coalesced: accepted.is_some_and(|accepted| accepted.coalesced),
        coalesced_tokens: accepted.map_or(0, |accepted| if accepted.coalesced { choice.generated() } else { 0 }),
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
