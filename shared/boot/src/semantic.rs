//! Names of the OpenTelemetry semantic conventions that kr uses, in one place because the GenAI and RPC ones still move.
//!
//! RPC names are those of [`SCHEMA_URL`]'s version; GenAI names come from the GenAI conventions (status Development), which
//! have no schema of their own yet.

/// The schema all telemetry is emitted under.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

/// What to write for a label value from outside that is not known (a model, a method), so that callers cannot make series.
pub const OTHER: &str = "_OTHER";

/// `error.type`: a low-cardinality class of failure, absent on success.
pub const ERROR_TYPE: &str = "error.type";

/// Fields that steer how a tracing span becomes an OpenTelemetry span.
pub mod span {
    /// The span's name, where it is not the tracing one.
    pub const NAME: &str = "otel.name";
    /// `server`, `client`, `internal`, `producer` or `consumer`.
    pub const KIND: &str = "otel.kind";
    /// `ok` or `error`.
    pub const STATUS_CODE: &str = "otel.status_code";
    /// What went wrong; never prompt or generated text.
    pub const STATUS_DESCRIPTION: &str = "otel.status_description";
}

/// Remote procedure calls.
pub mod rpc {
    /// Metric: seconds from a call's arrival to its trailers (histogram, `s`).
    pub const SERVER_CALL_DURATION: &str = "rpc.server.call.duration";
    /// Attribute: [`SYSTEM_GRPC`].
    pub const SYSTEM_NAME: &str = "rpc.system.name";
    /// The value of [`SYSTEM_NAME`].
    pub const SYSTEM_GRPC: &str = "grpc";
    /// Attribute: full method name, `kr.serve.v1.InferenceService/Generate`, or [`super::OTHER`].
    pub const METHOD: &str = "rpc.method";
    /// Attribute: the status as text, `RESOURCE_EXHAUSTED`. Becomes `rpc.status_code` from schema 1.45.
    pub const RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
}

/// Generative AI.
pub mod gen_ai {
    /// Metric: seconds of a whole request (histogram, `s`).
    pub const SERVER_REQUEST_DURATION: &str = "gen_ai.server.request.duration";
    /// Metric: seconds until the first token of a successful request (histogram, `s`).
    pub const SERVER_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
    /// Metric: seconds per token after the first of a successful request (histogram, `s`).
    pub const SERVER_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
    /// Metric: tokens by [`TOKEN_TYPE`] (histogram, `{token}`).
    pub const CLIENT_TOKEN_USAGE: &str = "gen_ai.client.token.usage";

    /// Attribute: [`OPERATION_CHAT`] or [`OPERATION_TEXT_COMPLETION`].
    pub const OPERATION_NAME: &str = "gen_ai.operation.name";
    /// A chat.
    pub const OPERATION_CHAT: &str = "chat";
    /// A completion of a prompt.
    pub const OPERATION_TEXT_COMPLETION: &str = "text_completion";
    /// Attribute: [`PROVIDER_KR`].
    pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
    /// The value of [`PROVIDER_NAME`].
    pub const PROVIDER_KR: &str = "kr_serve";
    /// Attribute: the model asked for, or [`super::OTHER`] if it is not served here.
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    /// Attribute: [`TOKEN_TYPE_INPUT`] or [`TOKEN_TYPE_OUTPUT`].
    pub const TOKEN_TYPE: &str = "gen_ai.token.type";
    /// Tokens of the prompt.
    pub const TOKEN_TYPE_INPUT: &str = "input";
    /// Tokens generated.
    pub const TOKEN_TYPE_OUTPUT: &str = "output";
    /// Span attribute: upper limit of generated tokens.
    pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
    /// Span attribute: sampling temperature.
    pub const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
    /// Span attribute: nucleus sampling.
    pub const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
    /// Span attribute: top-k sampling.
    pub const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
    /// Span attribute: the seed used.
    pub const REQUEST_SEED: &str = "gen_ai.request.seed";
    /// Span attribute: tokens of the prompt.
    pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Span attribute: tokens generated.
    pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Span attribute: why each choice ended.
    pub const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
}

/// Telemetry about telemetry.
pub mod telemetry {
    /// Metric: spans, log records and data points that never reached the collector (counter, `{item}`).
    pub const DROPPED: &str = "kr.telemetry.dropped";
    /// Attribute: `traces`, `metrics` or `logs`.
    pub const SIGNAL: &str = "signal";
    /// Attribute: `queue_full` or `export_failed`.
    pub const REASON: &str = "reason";
}
