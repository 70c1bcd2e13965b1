//! What is measured of one request from its admission to its end: the receipt's times, the spans, the metrics and the one
//! log line. Written when the record is ended, or dropped because the client left. Holds no text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_boot::semantic::{ERROR_TYPE, gen_ai};
use kr_boot::telemetry::{inject_traceparent, set_parent};
use kr_contract::{FinishReason, RequestId};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::call::Call;
use crate::clock;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::metrics::requests::Ended;
use crate::sequence::{Accepted, Finished};
use crate::status;
use crate::validate::ValidRequest;

/// What a request does, by the GenAI conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Generate,
    Chat,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Generate => gen_ai::OPERATION_TEXT_COMPLETION,
            Self::Chat => gen_ai::OPERATION_CHAT,
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// By itself, with the worker's figures where it gave them.
    Finished(FinishReason, Option<Finished>),
    /// Otherwise.
    Failed(&'a Error),
    /// Nobody reads the answer any more.
    ClientGone,
}

impl Outcome<'_> {
    pub(crate) fn finish_reason(&self) -> FinishReason {
        match self {
            Self::Finished(reason, _) => *reason,
            Self::Failed(error) if status::classify(error).0 == tonic::Code::DeadlineExceeded => {
                FinishReason::Cancelled
            }
            Self::Failed(_) => FinishReason::Error,
            Self::ClientGone => FinishReason::Cancelled,
        }
    }

    pub(crate) fn figures(&self) -> Option<&Finished> {
        match self {
            Self::Finished(_, figures) => figures.as_ref(),
            Self::Failed(_) | Self::ClientGone => None,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Failed(error) => error.detail(),
            Self::Finished(..) | Self::ClientGone => None,
        }
    }

    fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Finished(..) => None,
            Self::Failed(error) => Some(status::classify(error).1.as_str()),
            Self::ClientGone => Some("CANCELLED"),
        }
    }
}

/// Where the time went, as this process saw it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) queue: Duration,
    pub(crate) prefill: Option<Duration>,
    pub(crate) decode: Option<Duration>,
    pub(crate) to_first_token: Option<Duration>,
    pub(crate) stall: Duration,
    pub(crate) total: Duration,
}

/// One request's record.
#[derive(Debug)]
pub(crate) struct Record {
    call: Call,
    operation: Operation,
    model: Arc<str>,
    prompt_tokens: u32,
    seed: u64,
    metrics: Arc<Metrics>,
    span: Span,
    /// The span of the present phase: queued, prefill, decode.
    phase: Span,
    acceptance: Option<Accepted>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    generated: u32,
    stall: Duration,
    queued: bool,
    ended: bool,
}

impl Record {
    /// Begins the record and the span of a request.
    pub(crate) fn begin(call: Call, operation: Operation, valid: &ValidRequest, metrics: Arc<Metrics>) -> Self {
        let sequence = &valid.sequence;
        let name = format!("{} {}", operation.as_str(), valid.model.name);
        let span = tracing::info_span!(
            "generate",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty
        );
        if let Some(traceparent) = &call.traceparent {
            set_parent(&span, traceparent);
        }
        let params = &sequence.params;
        span.set_attribute(gen_ai::OPERATION_NAME, operation.as_str());
        span.set_attribute(gen_ai::PROVIDER_NAME, gen_ai::PROVIDER_KR);
        span.set_attribute(gen_ai::REQUEST_MODEL, valid.model.name.to_string());
        span.set_attribute(gen_ai::REQUEST_MAX_TOKENS, i64::from(sequence.max_tokens));
        span.set_attribute(gen_ai::REQUEST_TEMPERATURE, f64::from(params.temperature));
        span.set_attribute(gen_ai::REQUEST_TOP_P, f64::from(params.top_p));
        span.set_attribute(gen_ai::REQUEST_TOP_K, i64::from(params.top_k));
        span.set_attribute(gen_ai::REQUEST_SEED, params.seed.cast_signed());
        span.set_attribute(REQUEST_ID, call.request_id.to_string());
        let phase = tracing::info_span!(parent: &span, "queued");
        Self {
            call,
            operation,
            model: valid.model.name.clone(),
            prompt_tokens: u32::try_from(sequence.prompt.len()).unwrap_or(u32::MAX),
            seed: params.seed,
            metrics,
            span,
            phase,
            acceptance: None,
            first_token: None,
            last_token: None,
            generated: 0,
            stall: Duration::ZERO,
            queued: false,
            ended: false,
        }
    }

    /// Returns the trace context for whoever works for this request: this process's span, or the caller's where none is
    /// recorded here.
    pub(crate) fn traceparent(&self) -> Option<String> {
        inject_traceparent(&self.span).or_else(|| self.call.traceparent.clone())
    }

    /// Notes that the request is on its way into the queue: from here on its end is counted, also if its client leaves
    /// before the queue has answered.
    pub(crate) fn queued(&mut self) {
        self.queued = true;
    }

    /// Notes that the queue did not take it, which is counted there.
    pub(crate) fn not_queued(&mut self) {
        self.queued = false;
    }

    /// Notes which worker runs it.
    pub(crate) fn accepted(&mut self, accepted: Accepted) {
        self.span.set_attribute(WORKER, accepted.worker.to_string());
        self.acceptance = Some(accepted);
        self.phase = tracing::info_span!(parent: &self.span, "prefill");
    }

    /// Notes one more generated token.
    pub(crate) fn token(&mut self) {
        let now = clock::now();
        if self.first_token.is_none() {
            self.first_token = Some(now);
            self.phase = tracing::info_span!(parent: &self.span, "decode");
        }
        self.last_token = Some(now);
        self.generated += 1;
    }

    /// Notes how long, all in all, the answer stood still because its client did not read.
    pub(crate) fn stalled(&mut self, stall: Duration) {
        self.stall = stall;
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.call.request_id
    }

    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Returns how many tokens were generated, which is also the index of the next one.
    pub(crate) fn generated(&self) -> u32 {
        self.generated
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn acceptance(&self) -> Option<&Accepted> {
        self.acceptance.as_ref()
    }

    pub(crate) fn times(&self) -> Times {
        let arrived = self.call.arrived;
        let total = clock::now().saturating_duration_since(arrived);
        let since = |later: Instant, earlier: Instant| later.saturating_duration_since(earlier);
        let queue = self.acceptance().map_or(total, |accepted| accepted.queue_time);
        let dispatched = arrived + queue;
        Times {
            queue,
            prefill: self.first_token.map(|first| since(first, dispatched)),
            decode: self
                .last_token
                .zip(self.first_token)
                .map(|(last, first)| since(last, first)),
            to_first_token: self.first_token.map(|first| since(first, arrived)),
            stall: self.stall,
            total,
        }
    }

    /// Ends the record: metrics, span and log line, once.
    pub(crate) fn end(&mut self, outcome: Outcome<'_>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let times = self.times();
        let reason = outcome.finish_reason();
        if self.queued {
            self.metrics.requests.ended(&Ended {
                operation: self.operation.as_str(),
                model: &self.model,
                finish_reason: reason,
                error_type: outcome.error_type(),
                prompt_tokens: self.prompt_tokens,
                generated_tokens: self.generated,
                times,
            });
        }
        self.phase = Span::none();
        self.span
            .set_attribute(gen_ai::USAGE_INPUT_TOKENS, i64::from(self.prompt_tokens));
        self.span
            .set_attribute(gen_ai::USAGE_OUTPUT_TOKENS, i64::from(self.generated));
        self.span
            .set_attribute(gen_ai::RESPONSE_FINISH_REASONS, reason.as_str());
        if let Some(error_type) = outcome.error_type() {
            self.span.set_attribute(ERROR_TYPE, error_type);
        }
        if reason == FinishReason::Error {
            self.span.record("otel.status_code", "error");
        }
        self.log(&outcome, times);
    }

    fn log(&self, outcome: &Outcome<'_>, times: Times) {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let figures = outcome.figures();
        let _entered = self.span.enter();
        tracing::info!(
            request_id = %self.call.request_id,
            tenant = %self.call.tenant.0,
            model = %self.model,
            operation = self.operation.as_str(),
            finish_reason = outcome.finish_reason().as_str(),
            error = outcome.error_type(),
            detail = outcome.detail(),
            prompt_tokens = self.prompt_tokens,
            generated_tokens = self.generated,
            cached_tokens = figures.map(|figures| figures.cached_tokens),
            queue_s = times.queue.as_secs_f64(),
            first_token_s = seconds(times.to_first_token),
            decode_s = seconds(times.decode),
            stall_s = times.stall.as_secs_f64(),
            total_s = times.total.as_secs_f64(),
            mean_batch_size = figures.map(|figures| figures.mean_batch_size),
            worker = self.acceptance().map(|accepted| &*accepted.worker),
            attempts = self.acceptance().map(|accepted| accepted.attempts),
            "request finished"
        );
    }
}

const REQUEST_ID: &str = "kr.request.id";
const WORKER: &str = "kr.worker";

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.call.is_late() {
            self.end(Outcome::Failed(&crate::sequence::Failed::DeadlineExceeded.into()));
        } else {
            self.end(Outcome::ClientGone);
        }
    }
}
