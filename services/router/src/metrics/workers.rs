//! Instruments of workers: processes, sessions, steps and what their KV takes.

use std::sync::Arc;
use std::time::Duration;

use kr_boot::buckets;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use super::{CAUSE, Described, Metrics, histogram};
use crate::workers::{End, Frame, LossCause, WorkerProfile};

/// The instruments.
#[derive(Debug)]
pub(super) struct Workers {
    running: Gauge<u64>,
    up: Gauge<u64>,
    restarts: Counter<u64>,
    start_time: Histogram<f64>,
    messages: Counter<u64>,
    batch_limit: Gauge<u64>,
    batch_size: Histogram<f64>,
    batch_tokens: Histogram<f64>,
    step_duration: Histogram<f64>,
    generated_tokens: Counter<u64>,
    wasted_tokens: Counter<u64>,
    kv_usage: Gauge<f64>,
    kv_used_bytes: Gauge<u64>,
    kv_budget_bytes: Gauge<u64>,
    kv_copied_bytes: Counter<u64>,
    kv_copy_time: Counter<f64>,
    preempted: Counter<u64>,
    cached_tokens: Counter<u64>,
    cached_blocks: Gauge<u64>,
    added_blocks: Counter<u64>,
    evicted_blocks: Counter<u64>,
    mapped_bytes: Gauge<u64>,
}

impl Workers {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            running: meter
                .u64_gauge("kr.requests.running")
                .with_description("Sequences sent to a worker that have not ended there.")
                .with_unit("{request}")
                .build(),
            up: meter
                .u64_gauge("kr.worker.up")
                .with_description("1 while the worker is ready, otherwise 0.")
                .with_unit("{worker}")
                .build(),
            restarts: meter
                .u64_counter("kr.worker.restarts")
                .with_description("Workers lost or not started, and tried again, by cause.")
                .with_unit("{restart}")
                .build(),
            start_time: histogram(
                meter,
                Described {
                    name: "kr.worker.start_time",
                    description: "From a worker's start, or the first try to reach it, to ready.",
                    unit: "s",
                },
                buckets::QUEUE_TIME,
            ),
            messages: meter
                .u64_counter("kr.worker.messages")
                .with_description("Messages on the sessions with workers, by direction as the router sees it.")
                .with_unit("{message}")
                .build(),
            batch_limit: meter
                .u64_gauge("kr.batch.limit")
                .with_description("Sequences that the worker should have at present, as measured to be best.")
                .with_unit("{sequence}")
                .build(),
            batch_size: histogram(
                meter,
                Described {
                    name: "kr.batch.size",
                    description: "Sequences in one engine step.",
                    unit: "{sequence}",
                },
                buckets::BATCH_SIZE,
            ),
            batch_tokens: histogram(
                meter,
                Described {
                    name: "kr.batch.tokens",
                    description: "Input tokens of one engine step.",
                    unit: "{token}",
                },
                buckets::TOKENS,
            ),
            step_duration: histogram(
                meter,
                Described {
                    name: "kr.batch.step.duration",
                    description: "Duration of one engine step, by the worker's clock.",
                    unit: "s",
                },
                buckets::STEP_DURATION,
            ),
            generated_tokens: meter
                .u64_counter("kr.tokens.generated")
                .with_description("Tokens that workers generated.")
                .with_unit("{token}")
                .build(),
            wasted_tokens: meter
                .u64_counter("kr.tokens.wasted")
                .with_description("Tokens computed past a stop or a cancel, and dropped.")
                .with_unit("{token}")
                .build(),
            kv_usage: meter
                .f64_gauge("kr.kv_cache.usage")
                .with_description("Part of a worker's KV budget that running sequences take, 0 to 1.")
                .with_unit("1")
                .build(),
            kv_used_bytes: meter
                .u64_gauge("kr.kv_cache.used")
                .with_description("Bytes of KV that a worker's running sequences take.")
                .with_unit("By")
                .build(),
            kv_budget_bytes: meter
                .u64_gauge("kr.kv_cache.budget")
                .with_description("Bytes of KV that a worker's running sequences may take.")
                .with_unit("By")
                .build(),
            kv_copied_bytes: meter
                .u64_counter("kr.kv_cache.copied")
                .with_description("Bytes of KV copied between slots and blocks for sequences that have ended.")
                .with_unit("By")
                .build(),
            kv_copy_time: meter
                .f64_counter("kr.kv_cache.copy_time")
                .with_description("Time these copies took.")
                .with_unit("s")
                .build(),
            preempted: meter
                .u64_counter("kr.requests.preempted")
                .with_description("Times a sequence lost its KV to older ones and was computed again.")
                .with_unit("{preemption}")
                .build(),
            cached_tokens: meter
                .u64_counter("kr.prefix_cache.hits")
                .with_description("Prompt tokens taken from the prefix cache.")
                .with_unit("{token}")
                .build(),
            cached_blocks: meter
                .u64_gauge("kr.prefix_cache.blocks")
                .with_description("Blocks of KV in a worker's prefix cache.")
                .with_unit("{block}")
                .build(),
            added_blocks: meter
                .u64_counter("kr.prefix_cache.insertions")
                .with_description("Blocks of KV that a worker put into its prefix cache.")
                .with_unit("{block}")
                .build(),
            evicted_blocks: meter
                .u64_counter("kr.prefix_cache.evictions")
                .with_description("Blocks of KV that left a worker's prefix cache for others.")
                .with_unit("{block}")
                .build(),
            mapped_bytes: meter
                .u64_gauge("kr.weights.mapped")
                .with_description("Bytes of weights a worker maps and shares with the model's other workers.")
                .with_unit("By")
                .build(),
        }
    }
}

/// The worker instruments with one worker's labels.
#[derive(Debug, Clone)]
pub(crate) struct WorkerMetrics {
    pub(super) metrics: Arc<Metrics>,
    pub(super) labels: [KeyValue; 2],
    pub(super) sent: [KeyValue; 3],
    pub(super) received: [KeyValue; 3],
}

impl WorkerMetrics {
    /// Shows what has not happened yet as 0, so that the first time is an increase.
    pub(crate) fn begin(&self) {
        self.running(0);
        self.down();
        let workers = &self.metrics.workers;
        workers.generated_tokens.add(0, &self.labels);
        workers.wasted_tokens.add(0, &self.labels);
        workers.kv_copied_bytes.add(0, &self.labels);
        workers.kv_copy_time.add(0.0, &self.labels);
        workers.preempted.add(0, &self.labels);
        workers.cached_tokens.add(0, &self.labels);
        workers.added_blocks.add(0, &self.labels);
        workers.evicted_blocks.add(0, &self.labels);
        for cause in LossCause::ALL {
            workers.restarts.add(0, &self.with_cause(cause));
        }
    }

    pub(crate) fn sent(&self) {
        self.metrics.workers.messages.add(1, &self.sent);
    }

    pub(crate) fn received(&self) {
        self.metrics.workers.messages.add(1, &self.received);
    }

    pub(crate) fn running(&self, count: usize) {
        self.metrics.workers.running.record(count as u64, &self.labels);
    }

    pub(crate) fn up(&self, profile: &WorkerProfile, start_time: Duration) {
        let workers = &self.metrics.workers;
        workers.up.record(1, &self.labels);
        workers.start_time.record(start_time.as_secs_f64(), &self.labels);
        workers.mapped_bytes.record(profile.mapped_bytes, &self.labels);
        workers.kv_budget_bytes.record(profile.kv_budget_bytes, &self.labels);
    }

    pub(crate) fn down(&self) {
        let workers = &self.metrics.workers;
        workers.kv_usage.record(0.0, &self.labels);
        for gauge in [
            &workers.up,
            &workers.mapped_bytes,
            &workers.kv_used_bytes,
            &workers.kv_budget_bytes,
            &workers.cached_blocks,
            &workers.batch_limit,
        ] {
            gauge.record(0, &self.labels);
        }
    }

    pub(crate) fn limit(&self, limit: u32) {
        self.metrics.workers.batch_limit.record(limit.into(), &self.labels);
    }

    pub(crate) fn restarted(&self, cause: LossCause) {
        self.metrics.workers.restarts.add(1, &self.with_cause(cause));
    }

    fn with_cause(&self, cause: LossCause) -> [KeyValue; 3] {
        let cause = match cause {
            LossCause::Exit => "exit",
            LossCause::Signal => "signal",
            LossCause::FailedStart => "failed_start",
            LossCause::ModelNotLoaded => "model_not_loaded",
            LossCause::Wedged => "wedged",
            LossCause::Disconnected => "disconnected",
            LossCause::Protocol => "protocol",
        };
        let [model, worker] = self.labels.clone();
        [model, worker, KeyValue::new(CAUSE, cause)]
    }

    pub(crate) fn frame(&self, frame: &Frame, kv_budget_bytes: u64) {
        let workers = &self.metrics.workers;
        if let Some(step) = frame.step {
            workers.batch_size.record(f64::from(step.sequences), &self.labels);
            workers.batch_tokens.record(f64::from(step.tokens), &self.labels);
            workers.step_duration.record(step.duration.as_secs_f64(), &self.labels);
        }
        let generated: usize = frame.updates.iter().map(|update| update.tokens.ids.len()).sum();
        if generated > 0 {
            workers.generated_tokens.add(generated as u64, &self.labels);
        }
        if frame.wasted_tokens > 0 {
            workers.wasted_tokens.add(u64::from(frame.wasted_tokens), &self.labels);
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio for a gauge")]
        let usage = frame.load.kv_used_bytes as f64 / kv_budget_bytes.max(1) as f64;
        workers.kv_usage.record(usage, &self.labels);
        workers.kv_used_bytes.record(frame.load.kv_used_bytes, &self.labels);
        workers
            .cached_blocks
            .record(u64::from(frame.load.cached_blocks), &self.labels);
        for (counter, blocks) in [
            (&workers.added_blocks, &frame.blocks_added),
            (&workers.evicted_blocks, &frame.blocks_evicted),
        ] {
            if !blocks.is_empty() {
                counter.add(blocks.len() as u64, &self.labels);
            }
        }
        for end in frame.updates.iter().filter_map(|update| update.end.as_ref()) {
            self.ended(end);
        }
    }

    /// Counts what the KV of a sequence took.
    fn ended(&self, end: &End) {
        let (End::Finished(figures) | End::Cancelled(figures)) = end else {
            return;
        };
        let workers = &self.metrics.workers;
        workers
            .cached_tokens
            .add(u64::from(figures.cached_tokens), &self.labels);
        workers.kv_copied_bytes.add(figures.copied_bytes, &self.labels);
        workers.kv_copy_time.add(figures.copy_time.as_secs_f64(), &self.labels);
        workers.preempted.add(u64::from(figures.preemptions), &self.labels);
    }
}
