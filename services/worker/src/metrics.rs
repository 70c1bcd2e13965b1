//! Everything the worker measures. Names and units live here and nowhere else; labels are small closed sets.

use std::sync::Arc;
use std::time::Duration;

use kr_boot::buckets::{self, Buckets};
use kr_contract::FinishReason;
use kr_engine::frame::{Finish, StepFrame};
use kr_proto::worker::{CancelReason, RejectReason};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use crate::memory;
use crate::profile::Profile;

const BATCH_SIZE: &str = "kr.batch.size";
const BATCH_TOKENS: &str = "kr.batch.tokens";
const STEP_DURATION: &str = "kr.batch.step.duration";
const QUEUE_TIME: &str = "kr.request.queue_time";
const PREFILL_TIME: &str = "kr.request.prefill_time";
const DECODE_TIME: &str = "kr.request.decode_time";

/// Bucket boundaries of the histograms below.
pub(crate) const BUCKETS: &[Buckets] = &[
    Buckets::new(BATCH_SIZE, buckets::BATCH_SIZE),
    Buckets::new(BATCH_TOKENS, buckets::TOKENS),
    Buckets::new(STEP_DURATION, buckets::STEP_DURATION),
    Buckets::new(QUEUE_TIME, buckets::QUEUE_TIME),
    Buckets::new(PREFILL_TIME, buckets::TIME_TO_FIRST_TOKEN),
    Buckets::new(DECODE_TIME, buckets::REQUEST_DURATION),
];

/// The worker's instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    batch_size: Histogram<u64>,
    batch_tokens: Histogram<u64>,
    step_duration: Histogram<f64>,
    running: Gauge<u64>,
    waiting: Gauge<u64>,
    admitted: Counter<u64>,
    finished: Counter<u64>,
    cancelled: Counter<u64>,
    rejections: Counter<u64>,
    queue_time: Histogram<f64>,
    prefill_time: Histogram<f64>,
    decode_time: Histogram<f64>,
    kv_usage: Gauge<f64>,
    kv_used_bytes: Gauge<u64>,
    kv_budget_bytes: Gauge<u64>,
    kv_copied_bytes: Counter<u64>,
    kv_copy_time: Counter<f64>,
    preempted: Counter<u64>,
    prompt_tokens: Counter<u64>,
    generated_tokens: Counter<u64>,
    wasted_tokens: Counter<u64>,
    looked_up_tokens: Counter<u64>,
    cached_tokens: Counter<u64>,
    cached_blocks: Gauge<u64>,
    evicted_blocks: Counter<u64>,
    mapped_bytes: Gauge<u64>,
    copied_bytes: Gauge<u64>,
    load_time: Gauge<f64>,
    frames: Counter<u64>,
    sessions_opened: Counter<u64>,
    sessions_ended: Counter<u64>,
}

impl Metrics {
    /// Creates the instruments.
    pub(crate) fn new(meter: &Meter) -> Arc<Self> {
        observe_memory(meter);
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let gauge = |name, unit, description| {
            meter
                .u64_gauge(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let ratio = |name, unit, description| {
            meter
                .f64_gauge(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let counts = |name, unit, description| {
            meter
                .u64_histogram(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let seconds = |name, description| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .build()
        };
        Arc::new(Self {
            batch_size: counts(BATCH_SIZE, "{sequence}", "Sequences in one engine step."),
            batch_tokens: counts(BATCH_TOKENS, "{token}", "Input tokens of one engine step."),
            step_duration: seconds(STEP_DURATION, "Duration of one engine step."),
            running: gauge("kr.requests.running", "{request}", "Sequences that hold a KV slot."),
            waiting: gauge("kr.requests.waiting", "{request}", "Sequences that wait for a KV slot."),
            admitted: counter("kr.requests.admitted", "{request}", "Sequences the engine took."),
            finished: counter(
                "kr.requests.finished",
                "{request}",
                "Sequences that ended, by finish reason.",
            ),
            cancelled: counter("kr.requests.cancelled", "{request}", "Cancels received, by reason."),
            rejections: counter(
                "kr.admission.rejections",
                "{request}",
                "Sequences and sessions refused, by reason.",
            ),
            queue_time: seconds(QUEUE_TIME, "From a sequence's admission to its first step."),
            prefill_time: seconds(PREFILL_TIME, "From a sequence's first step to its first token."),
            decode_time: seconds(DECODE_TIME, "From a sequence's first token to its end."),
            kv_usage: ratio(
                "kr.kv_cache.usage",
                "1",
                "Share of the KV budget that running sequences take, 0 to 1.",
            ),
            kv_used_bytes: gauge(
                "kr.kv_cache.used_bytes",
                "By",
                "Bytes of KV that running sequences take.",
            ),
            kv_budget_bytes: gauge(
                "kr.kv_cache.budget_bytes",
                "By",
                "Bytes of KV that running sequences may take.",
            ),
            kv_copy_time: meter
                .f64_counter("kr.kv_cache.copy_time")
                .with_unit("s")
                .with_description("Time spent on copying KV between slots and blocks.")
                .build(),
            preempted: counter(
                "kr.requests.preempted",
                "{preemption}",
                "Times a sequence lost its KV to older ones and was computed again.",
            ),
            kv_copied_bytes: counter(
                "kr.kv_cache.copied_bytes",
                "By",
                "Bytes of KV copied between slots and blocks.",
            ),
            prompt_tokens: counter(
                "kr.tokens.prompt",
                "{token}",
                "Prompt tokens computed or taken from the cache.",
            ),
            generated_tokens: counter("kr.tokens.generated", "{token}", "Tokens generated and delivered."),
            wasted_tokens: counter(
                "kr.tokens.wasted",
                "{token}",
                "Tokens computed past a stop or cancel, and dropped.",
            ),
            looked_up_tokens: counter(
                "kr.prefix_cache.queries",
                "{token}",
                "Prompt tokens of sequences that might have been in the prefix cache.",
            ),
            cached_blocks: gauge("kr.prefix_cache.blocks", "{block}", "Blocks of KV in the prefix cache."),
            evicted_blocks: counter(
                "kr.prefix_cache.evictions",
                "{block}",
                "Blocks of KV that left the prefix cache for others.",
            ),
            cached_tokens: counter(
                "kr.prefix_cache.hits",
                "{token}",
                "Prompt tokens taken from the prefix cache.",
            ),
            mapped_bytes: gauge("kr.weights.mapped_bytes", "By", "Bytes of weights mapped and shared."),
            copied_bytes: gauge(
                "kr.weights.copied_bytes",
                "By",
                "Bytes of weights that had to be copied.",
            ),
            load_time: ratio(
                "kr.worker.load_time",
                "s",
                "From the process's start until the model was loaded.",
            ),
            frames: counter("kr.session.frames", "{frame}", "Frames sent to the router."),
            sessions_opened: counter("kr.session.opened", "{session}", "Sessions asked for."),
            sessions_ended: counter("kr.session.ended", "{session}", "Sessions ended, by cause."),
        })
    }

    pub(crate) fn loaded(&self, profile: &Profile) {
        self.mapped_bytes.record(profile.model.mapped_bytes, &[]);
        self.copied_bytes.record(profile.model.copied_bytes, &[]);
        self.load_time.record(profile.load_time.as_secs_f64(), &[]);
        self.kv_budget_bytes.record(profile.limits.kv_budget_bytes, &[]);
    }

    pub(crate) fn stepped(&self, frame: &StepFrame) {
        self.frames.add(1, &[]);
        self.admitted.add(length(frame.accepted.len()), &[]);
        self.wasted_tokens.add(frame.wasted_tokens.into(), &[]);
        if frame.step > 0 {
            self.batch_size.record(frame.planned_sequences.into(), &[]);
            self.batch_tokens.record(frame.planned_tokens.into(), &[]);
            self.step_duration.record(frame.step_duration.as_secs_f64(), &[]);
        }
        let load = frame.load;
        self.running.record(load.running.into(), &[]);
        self.waiting.record(load.waiting.into(), &[]);
        self.kv_used_bytes.record(load.kv_used_bytes, &[]);
        self.cached_blocks.record(load.cached_blocks.into(), &[]);
        self.evicted_blocks.add(length(frame.blocks_evicted.len()), &[]);
        self.kv_usage
            .record(share(load.kv_used_bytes, load.kv_budget_bytes), &[]);
    }

    /// Counts prompt tokens that were looked up in the prefix cache; what was found is in the sequence's figures.
    pub(crate) fn looked_up(&self, tokens: u64) {
        self.looked_up_tokens.add(tokens, &[]);
    }

    pub(crate) fn prompt_computed(&self, tokens: u64) {
        self.prompt_tokens.add(tokens, &[]);
    }

    pub(crate) fn finished(&self, finish: &Finish, generated_tokens: u64) {
        let timings = &finish.timings;
        self.finished
            .add(1, &[KeyValue::new("finished_reason", finish.reason.as_str())]);
        self.generated_tokens.add(generated_tokens, &[]);
        self.cached_tokens.add(timings.cached_tokens.into(), &[]);
        self.kv_copied_bytes.add(timings.copied_bytes, &[]);
        self.kv_copy_time.add(timings.copy_time.as_secs_f64(), &[]);
        self.preempted.add(timings.preemptions.into(), &[]);
        if matches!(finish.reason, FinishReason::Stop | FinishReason::Length) {
            let record = |histogram: &Histogram<f64>, duration: Duration| histogram.record(duration.as_secs_f64(), &[]);
            record(&self.queue_time, timings.waiting);
            record(&self.prefill_time, timings.prefill);
            record(&self.decode_time, timings.decode);
        }
    }

    pub(crate) fn cancel_received(&self, reason: CancelReason) {
        let reason = match reason {
            CancelReason::Unspecified | CancelReason::ClientGone => "client_gone",
            CancelReason::Deadline => "deadline",
            CancelReason::StopText => "stop_text",
            CancelReason::Router => "router",
        };
        self.cancelled.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn rejected(&self, reason: RejectReason) {
        let reason = match reason {
            RejectReason::Unspecified => "unspecified",
            RejectReason::Unsupported => "unsupported",
            RejectReason::TooLarge => "too_large",
            RejectReason::Busy => "busy",
            RejectReason::Draining => "draining",
            RejectReason::Invalid => "invalid",
        };
        self.rejections.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn session_opened(&self) {
        self.sessions_opened.add(1, &[]);
    }

    pub(crate) fn session_ended(&self, cause: &'static str) {
        self.sessions_ended.add(1, &[KeyValue::new("cause", cause)]);
    }
}

fn observe_memory(meter: &Meter) {
    meter
        .u64_observable_gauge("kr.weights.pss_bytes")
        .with_unit("By")
        .with_description("This process's proportional share of file-backed memory, which the weights dominate.")
        .with_callback(|observer| {
            if let Some(usage) = memory::usage() {
                observer.observe(usage.file_backed_pss_bytes, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge("kr.worker.pss_bytes")
        .with_unit("By")
        .with_description("This process's proportional share of all memory it maps.")
        .with_callback(|observer| {
            if let Some(usage) = memory::usage() {
                observer.observe(usage.pss_bytes, &[]);
            }
        })
        .build();
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a share of a few digits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
