//! What is measured of one request from its admission to its end: the receipts' times, the spans, the metrics and the one
//! log line. Written when the record is ended, or dropped because the client left. Holds no text.

mod progress;

use std::sync::Arc;

use kr_boot::semantic::{ERROR_TYPE, gen_ai};
use kr_boot::telemetry::{inject_traceparent, set_parent};
use kr_contract::{FinishReason, RequestId};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::call::Call;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::metrics::requests::Ended;
use crate::sequence::{Accepted, Failed, Finished};
use crate::status;
use crate::validate::ValidRequest;
use progress::Moments;
pub(crate) use progress::{ChoiceEnd, Progress, Times};

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
    /// Every choice by itself.
    Answered,
    /// Otherwise.
    Failed(&'a Error),
    /// Nobody reads the answer any more.
    ClientGone,
}

/// Returns how an answer ends that `error` cut.
pub(crate) fn reason_of(error: &Error) -> FinishReason {
    match status::classify(error).0 {
        tonic::Code::DeadlineExceeded => FinishReason::Cancelled,
        _ => FinishReason::Error,
    }
}

impl Outcome<'_> {
    fn detail(&self) -> Option<String> {
        match self {
            Self::Failed(error) => error.detail(),
            Self::Answered | Self::ClientGone => None,
        }
    }

    fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Answered => None,
            Self::Failed(error) => Some(status::classify(error).1.as_str()),
            Self::ClientGone => Some("CANCELLED"),
        }
    }
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
    choices: Vec<Progress>,
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
        span.set_attribute(REQUEST_CHOICES, i64::from(valid.choices));
        span.set_attribute(REQUEST_ID, call.request_id.to_string());
        Self {
            call,
            operation,
            model: valid.model.name.clone(),
            prompt_tokens: u32::try_from(sequence.prompt.len()).unwrap_or(u32::MAX),
            seed: params.seed,
            metrics,
            choices: (0..valid.choices).map(|_| Progress::queued(&span)).collect(),
            span,
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

    /// Notes which worker runs a choice.
    pub(crate) fn accepted(&mut self, choice: usize, accepted: Accepted) {
        self.span.set_attribute(WORKER, accepted.worker.to_string());
        if let Some(progress) = self.choices.get_mut(choice) {
            progress.accepted(accepted);
        }
    }

    /// Notes one more generated token of a choice.
    pub(crate) fn token(&mut self, choice: usize) {
        if let Some(progress) = self.choices.get_mut(choice) {
            progress.token();
        }
    }

    /// Notes a choice's end, and how long, all in all, it stood still because its client did not read.
    pub(crate) fn choice_ended(&mut self, choice: usize, end: ChoiceEnd, stall: std::time::Duration) {
        if let Some(progress) = self.choices.get_mut(choice) {
            progress.ended(end, stall);
        }
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.call.request_id
    }

    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn choice(&self, choice: usize) -> Option<&Progress> {
        self.choices.get(choice)
    }

    /// Returns how many tokens of a choice were generated, which is also the index of the next one.
    pub(crate) fn generated(&self, choice: usize) -> u32 {
        self.choice(choice).map_or(0, Progress::generated)
    }

    /// Returns how many tokens of all choices were generated.
    pub(crate) fn generated_by_all(&self) -> u32 {
        let each = self.choices.iter().map(Progress::generated);
        each.fold(0, u32::saturating_add)
    }

    /// Returns whether every choice has ended.
    pub(crate) fn all_ended(&self) -> bool {
        self.choices.iter().all(|progress| progress.end().is_some())
    }

    /// Returns the prompt tokens that no choice had to compute: what the choice took from the cache that took the fewest.
    pub(crate) fn cached_tokens(&self) -> Option<u32> {
        self.figures().map(|figures| figures.cached_tokens).min()
    }

    pub(crate) fn times_of(&self, choice: &Progress) -> Times {
        choice.moments.times(self.call.arrived)
    }

    fn figures(&self) -> impl Iterator<Item = &Finished> {
        self.choices.iter().filter_map(Progress::figures)
    }

    /// Returns the first acceptance there was of a choice, in their order.
    fn acceptance(&self) -> Option<&Accepted> {
        self.choices.iter().find_map(Progress::acceptance)
    }

    /// Returns the times of all choices together: from the first's beginning to the last's end.
    fn times(&self) -> Times {
        let moments = self.choices.iter().map(|progress| progress.moments);
        moments.fold(Moments::default(), Moments::with).times(self.call.arrived)
    }

    fn finish_reason(&self, outcome: &Outcome<'_>) -> FinishReason {
        let mut ends = self.choices.iter().filter_map(Progress::end);
        match outcome {
            Outcome::Answered if ends.any(|end| end.reason == FinishReason::Length) => FinishReason::Length,
            Outcome::Answered => FinishReason::Stop,
            Outcome::Failed(error) => reason_of(error),
            Outcome::ClientGone => FinishReason::Cancelled,
        }
    }

    /// Ends the record: metrics, span and log line, once.
    pub(crate) fn end(&mut self, outcome: &Outcome<'_>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let times = self.times();
        let reason = self.finish_reason(outcome);
        let generated = self.generated_by_all();
        if self.queued {
            self.metrics.requests.ended(&Ended {
                operation: self.operation.as_str(),
                model: &self.model,
                finish_reason: reason,
                error_type: outcome.error_type(),
                prompt_tokens: self.prompt_tokens,
                generated_tokens: generated,
                longest_answer: self.choices.iter().map(Progress::generated).max().unwrap_or(0),
                times,
            });
        }
        for progress in &mut self.choices {
            progress.close();
        }
        self.span
            .set_attribute(gen_ai::USAGE_INPUT_TOKENS, i64::from(self.prompt_tokens));
        self.span
            .set_attribute(gen_ai::USAGE_OUTPUT_TOKENS, i64::from(generated));
        self.span
            .set_attribute(gen_ai::RESPONSE_FINISH_REASONS, reason.as_str());
        if let Some(error_type) = outcome.error_type() {
            self.span.set_attribute(ERROR_TYPE, error_type);
        }
        if reason == FinishReason::Error {
            self.span.record("otel.status_code", "error");
        }
        self.log(outcome, times);
    }

    fn log(&self, outcome: &Outcome<'_>, times: Times) {
        let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
        let accepted = self.acceptance();
        let _entered = self.span.enter();
        tracing::info!(
            request_id = %self.call.request_id,
            tenant = %self.call.tenant.0,
            model = %self.model,
            operation = self.operation.as_str(),
            finish_reason = self.finish_reason(outcome).as_str(),
            error = outcome.error_type(),
            detail = outcome.detail(),
            choices = self.choices.len(),
            prompt_tokens = self.prompt_tokens,
            generated_tokens = self.generated_by_all(),
            cached_tokens = self.cached_tokens(),
            preemptions = self.figures().map(|figures| figures.preemptions).max(),
            queue_s = times.queue.as_secs_f64(),
            first_token_s = seconds(times.to_first_token),
            decode_s = seconds(times.decode),
            stall_s = times.stall.as_secs_f64(),
            total_s = times.total.as_secs_f64(),
            mean_batch_size = self.figures().next().map(|figures| figures.mean_batch_size),
            worker = accepted.map(|accepted| &*accepted.worker),
            attempts = accepted.map(|accepted| accepted.attempts),
            "request finished"
        );
    }
}

const REQUEST_ID: &str = "kr.request.id";
const REQUEST_CHOICES: &str = "gen_ai.request.choice.count";
const WORKER: &str = "kr.worker";

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.call.is_late() {
            self.end(&Outcome::Failed(&Failed::DeadlineExceeded.into()));
        } else {
            self.end(&Outcome::ClientGone);
        }
    }
}
