//! Instruments of the edge: requests by the GenAI conventions, calls by the RPC conventions, refusals.

use std::time::Duration;

use kr_boot::buckets::{Buckets, REQUEST_DURATION, RPC_DURATION, TIME_PER_OUTPUT_TOKEN, TIME_TO_FIRST_TOKEN, TOKENS};
use kr_boot::semantic::{ERROR_TYPE, gen_ai, rpc};
use kr_contract::FinishReason;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::record::Times;
use crate::status::Reason;

const MODEL: &str = "model";
const REQUESTS_FINISHED: &str = "kr.requests.finished";
const FINISHED_REASON: &str = "finished_reason";
const PROMPT_TOKENS: &str = "kr.request.prompt_tokens";
const GENERATED_TOKENS: &str = "kr.request.generated_tokens";
const STALL_TIME: &str = "kr.request.stall_time";
const REFUSALS: &str = "kr.requests.refused";
const REASON: &str = "reason";
const CONNECTIONS: &str = "kr.connections.open";
const CONNECTIONS_REFUSED: &str = "kr.connections.refused";

/// Bucket boundaries of the histograms here.
pub(crate) const BUCKETS: [Buckets; 7] = [
    Buckets::new(gen_ai::SERVER_REQUEST_DURATION, REQUEST_DURATION),
    Buckets::new(gen_ai::SERVER_TIME_TO_FIRST_TOKEN, TIME_TO_FIRST_TOKEN),
    Buckets::new(gen_ai::SERVER_TIME_PER_OUTPUT_TOKEN, TIME_PER_OUTPUT_TOKEN),
    Buckets::new(gen_ai::CLIENT_TOKEN_USAGE, TOKENS),
    Buckets::new(PROMPT_TOKENS, TOKENS),
    Buckets::new(GENERATED_TOKENS, TOKENS),
    Buckets::new(rpc::SERVER_CALL_DURATION, RPC_DURATION),
];

/// What is counted of a request when it ends.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) operation: &'static str,
    /// A configured name, never a client's text.
    pub(crate) model: &'a str,
    pub(crate) finish_reason: FinishReason,
    pub(crate) error_type: Option<&'static str>,
    pub(crate) prompt_tokens: u32,
    /// Of all choices together.
    pub(crate) generated_tokens: u32,
    /// Tokens of the choice with the most.
    pub(crate) longest_answer: u32,
    pub(crate) times: Times,
}

/// One call of the server, whatever it was.
#[derive(Debug)]
pub(crate) struct CallEnded<'a> {
    /// A method of this server, or `_OTHER`.
    pub(crate) method: &'a str,
    pub(crate) code: &'static str,
    pub(crate) duration: Duration,
}

/// Why a connection never got to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionRefusal {
    /// As many as allowed are open.
    TooMany,
    /// It said nothing for too long.
    Silent,
    /// The system could not accept it.
    AcceptFailed,
}

impl ConnectionRefusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Silent => "silent",
            Self::AcceptFailed => "accept_failed",
        }
    }
}

/// The instruments.
#[derive(Debug)]
pub(crate) struct Requests {
    duration: Histogram<f64>,
    time_to_first_token: Histogram<f64>,
    time_per_output_token: Histogram<f64>,
    token_usage: Histogram<u64>,
    prompt_tokens: Histogram<u64>,
    generated_tokens: Histogram<u64>,
    stall_time: Histogram<f64>,
    finished: Counter<u64>,
    refused: Counter<u64>,
    calls: Histogram<f64>,
    connections: UpDownCounter<i64>,
    connections_refused: Counter<u64>,
}

impl Requests {
    pub(crate) fn new(meter: &Meter) -> Self {
        let seconds = |name, description| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .build()
        };
        let tokens = |name, description| {
            meter
                .u64_histogram(name)
                .with_unit("{token}")
                .with_description(description)
                .build()
        };
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        Self {
            duration: seconds(gen_ai::SERVER_REQUEST_DURATION, "From a request's arrival to its end"),
            time_to_first_token: seconds(
                gen_ai::SERVER_TIME_TO_FIRST_TOKEN,
                "From arrival to the first token of requests that ended by themselves",
            ),
            time_per_output_token: seconds(
                gen_ai::SERVER_TIME_PER_OUTPUT_TOKEN,
                "Mean time of each token after the first, of requests that ended by themselves",
            ),
            token_usage: tokens(gen_ai::CLIENT_TOKEN_USAGE, "Tokens of a request by type"),
            prompt_tokens: tokens(PROMPT_TOKENS, "Tokens of a request's prompt"),
            generated_tokens: tokens(GENERATED_TOKENS, "Tokens generated for a request"),
            stall_time: seconds(STALL_TIME, "Time an answer stood still because its client did not read"),
            finished: counter(
                REQUESTS_FINISHED,
                "{request}",
                "Requests that had been queued, by how they ended",
            ),
            refused: counter(
                REFUSALS,
                "{request}",
                "Requests refused before they were queued, by reason",
            ),
            calls: seconds(rpc::SERVER_CALL_DURATION, "From a call's arrival to its trailers"),
            connections: meter
                .i64_up_down_counter(CONNECTIONS)
                .with_unit("{connection}")
                .with_description("Open client connections of both ports")
                .build(),
            connections_refused: counter(
                CONNECTIONS_REFUSED,
                "{connection}",
                "Connections closed before their first request, by reason",
            ),
        }
    }

    /// Shows what has not happened yet as 0, so that the first time is an increase.
    pub(crate) fn begin<'a>(&self, models: impl Iterator<Item = &'a str>) {
        use FinishReason::{Cancelled, Error, Length, Stop};
        for model in models {
            for reason in [Stop, Length, Cancelled, Error] {
                self.finished.add(0, &finished_labels(model, reason));
            }
        }
        for reason in Reason::BEFORE_THE_QUEUE {
            self.refused.add(0, &[KeyValue::new(REASON, reason.as_str())]);
        }
        for reason in [
            ConnectionRefusal::TooMany,
            ConnectionRefusal::Silent,
            ConnectionRefusal::AcceptFailed,
        ] {
            self.connections_refused
                .add(0, &[KeyValue::new(REASON, reason.as_str())]);
        }
        self.connections.add(0, &[]);
    }

    /// Counts a request that had been queued.
    pub(crate) fn ended(&self, ended: &Ended<'_>) {
        let labels = [
            KeyValue::new(gen_ai::OPERATION_NAME, ended.operation),
            KeyValue::new(gen_ai::PROVIDER_NAME, gen_ai::PROVIDER_KR),
            KeyValue::new(gen_ai::REQUEST_MODEL, ended.model.to_owned()),
        ];
        let with = |more: KeyValue| [labels.as_slice(), &[more]].concat();
        let duration_labels = match ended.error_type {
            Some(error) => with(KeyValue::new(ERROR_TYPE, error)),
            None => labels.to_vec(),
        };
        let times = &ended.times;
        self.duration.record(times.total.as_secs_f64(), &duration_labels);
        let (prompt, generated) = (u64::from(ended.prompt_tokens), u64::from(ended.generated_tokens));
        let of_type = |kind| with(KeyValue::new(gen_ai::TOKEN_TYPE, kind));
        self.token_usage.record(prompt, &of_type(gen_ai::TOKEN_TYPE_INPUT));
        self.token_usage.record(generated, &of_type(gen_ai::TOKEN_TYPE_OUTPUT));
        let model = [KeyValue::new(MODEL, ended.model.to_owned())];
        self.prompt_tokens.record(prompt, &model);
        self.generated_tokens.record(generated, &model);
        self.stall_time.record(times.stall.as_secs_f64(), &model);
        self.finished.add(1, &finished_labels(ended.model, ended.finish_reason));
        if ended.error_type.is_some() {
            return;
        }
        if let Some(first) = times.to_first_token {
            self.time_to_first_token.record(first.as_secs_f64(), &labels);
        }
        if let Some(decode) = times.decode.filter(|_| ended.longest_answer > 1) {
            let each = decode.as_secs_f64() / f64::from(ended.longest_answer - 1);
            self.time_per_output_token.record(each, &labels);
        }
    }

    /// Counts a request that did not get as far as the queue.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refused.add(1, &[KeyValue::new(REASON, reason.as_str())]);
    }

    /// Counts a call.
    pub(crate) fn call_ended(&self, ended: &CallEnded<'_>) {
        let labels = [
            KeyValue::new(rpc::SYSTEM_NAME, rpc::SYSTEM_GRPC),
            KeyValue::new(rpc::METHOD, ended.method.to_owned()),
            KeyValue::new(rpc::RESPONSE_STATUS_CODE, ended.code),
        ];
        let error = KeyValue::new(ERROR_TYPE, ended.code);
        let seconds = ended.duration.as_secs_f64();
        match ended.code {
            "OK" => self.calls.record(seconds, &labels),
            _ => self.calls.record(seconds, &[labels.as_slice(), &[error]].concat()),
        }
    }

    /// Counts a connection for as long as it is open.
    pub(crate) fn connection(&self, change: i64) {
        self.connections.add(change, &[]);
    }

    /// Counts a connection that never got to a request.
    pub(crate) fn connection_refused(&self, reason: ConnectionRefusal) {
        self.connections_refused
            .add(1, &[KeyValue::new(REASON, reason.as_str())]);
    }
}

fn finished_labels(model: &str, reason: FinishReason) -> [KeyValue; 2] {
    [
        KeyValue::new(MODEL, model.to_owned()),
        KeyValue::new(FINISHED_REASON, reason.as_str()),
    ]
}
