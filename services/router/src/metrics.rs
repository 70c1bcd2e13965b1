//! Every instrument of the router, with its name, unit and labels, and nowhere else. Built once from a [`Meter`] and passed
//! down. Labels are closed sets: configured names and the enums here.

pub(crate) mod requests;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use kr_boot::buckets;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use crate::policy::Choice;
use crate::sequence::{CancelReason, Finished};
pub(crate) use workers::WorkerMetrics;
use workers::Workers;

const MODEL: &str = "model";
const WORKER: &str = "worker";
const REASON: &str = "reason";
const CAUSE: &str = "cause";
const OUTCOME: &str = "outcome";
const KIND: &str = "kind";
const KIND_PROMPT: &str = "prompt";
const KIND_GENERATED: &str = "generated";
const DIRECTION: &str = "direction";

/// All instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) requests: requests::Requests,
    scheduling: Scheduling,
    workers: Workers,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            requests: requests::Requests::new(meter),
            scheduling: Scheduling::new(meter),
            workers: Workers::new(meter),
        }
    }
}

// Scheduling: the queue and what becomes of sequences.

#[derive(Debug)]
struct Scheduling {
    waiting: Gauge<u64>,
    waiting_tenants: Gauge<u64>,
    placements: Counter<u64>,
    joined: Counter<u64>,
    saved_tokens: Counter<u64>,
    expected_cached: Counter<u64>,
    forecasts: Counter<u64>,
    departures: Counter<u64>,
    rejections: Counter<u64>,
    retried: Counter<u64>,
    cancelled: Counter<u64>,
    queue_time: Histogram<f64>,
    prefill_time: Histogram<f64>,
    decode_time: Histogram<f64>,
    prompt_tokens: Counter<u64>,
}

impl Scheduling {
    fn new(meter: &Meter) -> Self {
        Self {
            waiting: meter
                .u64_gauge("kr.requests.waiting")
                .with_description("Sequences in the router's queue.")
                .with_unit("{request}")
                .build(),
            waiting_tenants: meter
                .u64_gauge("kr.queue.tenants")
                .with_description("Tenants with sequences in the router's queue, which take turns.")
                .with_unit("{tenant}")
                .build(),
            joined: meter
                .u64_counter("kr.coalescing.joined")
                .with_description("Requests that joined an identical one in flight instead of running.")
                .with_unit("{request}")
                .build(),
            saved_tokens: meter
                .u64_counter("kr.coalescing.tokens_saved")
                .with_description("Tokens, prompt and generated, that joined requests got without their being computed again.")
                .with_unit("{token}")
                .build(),
            placements: meter
                .u64_counter("kr.placement.decisions")
                .with_description("Sequences sent, by whether a worker had the prompt's beginning cached and got it (hit), did not for its load (yielded), or nobody had (none).")
                .with_unit("{request}")
                .build(),
            expected_cached: meter
                .u64_counter("kr.placement.cached_tokens")
                .with_description("Prompt tokens that were expected in the prefix cache of the worker chosen.")
                .with_unit("{token}")
                .build(),
            forecasts: meter
                .u64_counter("kr.queue.forecasts")
                .with_description("Sequences with a deadline that waited, by whether they started after their forecast (a bound) or before.")
                .with_unit("{request}")
                .build(),
            departures: meter
                .u64_counter("kr.queue.departures")
                .with_description("Sequences that left the queue, by what became of them.")
                .with_unit("{request}")
                .build(),
            rejections: meter
                .u64_counter("kr.admission.rejections")
                .with_description("Requests refused before they were queued, by reason.")
                .with_unit("{request}")
                .build(),
            retried: meter
                .u64_counter("kr.requests.retried")
                .with_description("Sequences sent to a worker again because theirs was lost before the first token.")
                .with_unit("{request}")
                .build(),
            cancelled: meter
                .u64_counter("kr.requests.cancelled")
                .with_description("Sequences stopped in the queue or on a worker before their own end, by reason.")
                .with_unit("{request}")
                .build(),
            queue_time: histogram(
                meter,
                Described {
                    name: "kr.request.queue_time",
                    description: "From arrival until the sequence was sent to the worker that took it.",
                    unit: "s",
                },
                buckets::QUEUE_TIME,
            ),
            prefill_time: histogram(
                meter,
                Described {
                    name: "kr.request.prefill_time",
                    description: "From a sequence's first step to its first token, by the worker's clock.",
                    unit: "s",
                },
                buckets::TIME_TO_FIRST_TOKEN,
            ),
            decode_time: histogram(
                meter,
                Described {
                    name: "kr.request.decode_time",
                    description: "From a sequence's first token to its last, by the worker's clock.",
                    unit: "s",
                },
                buckets::REQUEST_DURATION,
            ),
            prompt_tokens: meter
                .u64_counter("kr.tokens.prompt")
                .with_description("Prompt tokens of accepted sequences.")
                .with_unit("{token}")
                .build(),
        }
    }
}

/// Why a request was refused before it was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    QueueFull,
    TenantQueueFull,
    Draining,
    Deadline,
    ModelNotLoaded,
    CannotStart,
}

impl Rejection {
    const ALL: [Self; 6] = [
        Self::QueueFull,
        Self::TenantQueueFull,
        Self::Draining,
        Self::Deadline,
        Self::ModelNotLoaded,
        Self::CannotStart,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TenantQueueFull => "tenant_queue_full",
            Self::Draining => "draining",
            Self::Deadline => "deadline",
            Self::ModelNotLoaded => "model_load_failed",
            Self::CannotStart => "shed_deadline",
        }
    }
}

/// Whether a sequence started as forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forecast {
    /// Not before the time forecast as the earliest.
    Kept,
    /// Before it: with a deadline in between it would have been refused wrongly.
    Early,
}

impl Forecast {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Early => "early",
        }
    }
}

/// What became of a waiting sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    Dispatched,
    /// It made room for a tenant with fewer waiting.
    Displaced,
    Expired,
    Abandoned,
    NoWorker,
    Drained,
}

impl Departure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Dispatched => "dispatched",
            Self::Displaced => "displaced",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
            Self::NoWorker => "no_worker",
            Self::Drained => "drained",
        }
    }
}

/// The scheduling instruments with one model's label.
#[derive(Debug, Clone)]
pub(crate) struct ModelMetrics {
    metrics: Arc<Metrics>,
    model: KeyValue,
}

impl ModelMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>, model: Arc<str>) -> Self {
        Self {
            metrics,
            model: label(MODEL, model),
        }
    }

    pub(crate) fn waiting(&self, count: usize) {
        self.metrics
            .scheduling
            .waiting
            .record(count as u64, std::slice::from_ref(&self.model));
    }

    pub(crate) fn waiting_tenants(&self, count: usize) {
        let labels = std::slice::from_ref(&self.model);
        self.metrics.scheduling.waiting_tenants.record(count as u64, labels);
    }

    /// Shows what has not happened yet as 0, so that the first time is an increase.
    pub(crate) fn begin(&self) {
        self.waiting(0);
        self.waiting_tenants(0);
        let scheduling = &self.metrics.scheduling;
        scheduling.prompt_tokens.add(0, std::slice::from_ref(&self.model));
        scheduling.retried.add(0, std::slice::from_ref(&self.model));
        scheduling.joined.add(0, std::slice::from_ref(&self.model));
        for kind in [KIND_PROMPT, KIND_GENERATED] {
            self.saved(kind, 0);
        }
        for forecast in [Forecast::Kept, Forecast::Early] {
            let outcome = KeyValue::new(OUTCOME, forecast.as_str());
            scheduling.forecasts.add(0, &[self.model.clone(), outcome]);
        }
        for rejection in Rejection::ALL {
            let reason = KeyValue::new(REASON, rejection.as_str());
            scheduling.rejections.add(0, &[self.model.clone(), reason]);
        }
    }

    pub(crate) fn departed(&self, departure: Departure) {
        let outcome = KeyValue::new(OUTCOME, departure.as_str());
        self.metrics
            .scheduling
            .departures
            .add(1, &[self.model.clone(), outcome]);
    }

    pub(crate) fn joined(&self, prompt_tokens: usize) {
        self.metrics.scheduling.joined.add(1, std::slice::from_ref(&self.model));
        self.saved(KIND_PROMPT, prompt_tokens);
    }

    /// Counts generated tokens that went to more than one client.
    pub(crate) fn saved_tokens(&self, count: usize) {
        if count > 0 {
            self.saved(KIND_GENERATED, count);
        }
    }

    fn saved(&self, kind: &'static str, count: usize) {
        let labels = [self.model.clone(), KeyValue::new(KIND, kind)];
        self.metrics.scheduling.saved_tokens.add(count as u64, &labels);
    }

    pub(crate) fn placed(&self, choice: Choice) {
        let outcome = match (choice.cached_tokens, choice.most_cached_tokens) {
            (_, 0) => "none",
            (here, most) if here == most => "hit",
            _ => "yielded",
        };
        let scheduling = &self.metrics.scheduling;
        scheduling
            .placements
            .add(1, &[self.model.clone(), KeyValue::new(OUTCOME, outcome)]);
        let labels = std::slice::from_ref(&self.model);
        scheduling.expected_cached.add(choice.cached_tokens.into(), labels);
    }

    pub(crate) fn forecast(&self, forecast: Forecast) {
        let outcome = KeyValue::new(OUTCOME, forecast.as_str());
        self.metrics.scheduling.forecasts.add(1, &[self.model.clone(), outcome]);
    }

    pub(crate) fn rejected(&self, rejection: Rejection) {
        let reason = KeyValue::new(REASON, rejection.as_str());
        self.metrics.scheduling.rejections.add(1, &[self.model.clone(), reason]);
    }

    pub(crate) fn retried(&self) {
        self.metrics
            .scheduling
            .retried
            .add(1, std::slice::from_ref(&self.model));
    }

    pub(crate) fn cancelled(&self, reason: CancelReason) {
        let reason = KeyValue::new(
            REASON,
            match reason {
                CancelReason::ClientGone => "client_gone",
                CancelReason::Deadline => "deadline",
                CancelReason::StopText => "stop_text",
                CancelReason::SlowConsumer => "slow_consumer",
                CancelReason::Shutdown => "shutdown",
            },
        );
        self.metrics.scheduling.cancelled.add(1, &[self.model.clone(), reason]);
    }

    pub(crate) fn accepted(&self, queue_time: Duration, prompt_tokens: usize) {
        let labels = std::slice::from_ref(&self.model);
        self.metrics
            .scheduling
            .queue_time
            .record(queue_time.as_secs_f64(), labels);
        self.metrics.scheduling.prompt_tokens.add(prompt_tokens as u64, labels);
    }

    pub(crate) fn finished(&self, finished: &Finished) {
        let labels = std::slice::from_ref(&self.model);
        self.metrics
            .scheduling
            .prefill_time
            .record(finished.prefill.as_secs_f64(), labels);
        self.metrics
            .scheduling
            .decode_time
            .record(finished.decode.as_secs_f64(), labels);
    }

    /// Returns the instruments of one of the model's workers.
    pub(crate) fn worker(&self, name: Arc<str>) -> WorkerMetrics {
        let labels = [self.model.clone(), label(WORKER, name)];
        let direction = |direction: &'static str| {
            let [model, worker] = labels.clone();
            [model, worker, KeyValue::new(DIRECTION, direction)]
        };
        WorkerMetrics {
            sent: direction("sent"),
            received: direction("received"),
            metrics: self.metrics.clone(),
            labels,
        }
    }
}

fn label(key: &'static str, value: Arc<str>) -> KeyValue {
    KeyValue::new(key, StringValue::from(value))
}

/// A histogram's name, meaning and unit.
struct Described {
    name: &'static str,
    description: &'static str,
    unit: &'static str,
}

fn histogram(meter: &Meter, described: Described, boundaries: &[f64]) -> Histogram<f64> {
    meter
        .f64_histogram(described.name)
        .with_description(described.description)
        .with_unit(described.unit)
        .with_boundaries(boundaries.to_vec())
        .build()
}
