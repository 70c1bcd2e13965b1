//! Spans of one sequence: `worker.sequence`, a child of the router's span, with `worker.waiting`, `prefill` and `decode`
//! below it. Counts and durations only, never tokens or text; never a span per token.

use kr_boot::semantic;
use kr_boot::telemetry;
use kr_contract::FinishReason;
use kr_engine::SequenceRequest;
use kr_engine::frame::Finish;
use tracing::{Span, field};

/// Opens the span of a sequence that came with `traceparent`.
pub(crate) fn sequence(request: &SequenceRequest, attempt: u32, traceparent: &str) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "worker.sequence",
        { semantic::span::KIND } = "server",
        { semantic::span::STATUS_CODE } = field::Empty,
        { semantic::span::STATUS_DESCRIPTION } = field::Empty,
        { semantic::gen_ai::REQUEST_MAX_TOKENS } = request.max_tokens,
        { semantic::gen_ai::USAGE_INPUT_TOKENS } = request.prompt.len(),
        { semantic::gen_ai::USAGE_OUTPUT_TOKENS } = field::Empty,
        { semantic::gen_ai::RESPONSE_FINISH_REASONS } = field::Empty,
        kr.sequence.id = request.id.0,
        kr.sequence.attempt = attempt,
        kr.sequence.emitted_tokens = request.emitted.len(),
        kr.sequence.cached_tokens = field::Empty,
        kr.sequence.steps = field::Empty,
        kr.sequence.prefill_chunks = field::Empty,
        kr.sequence.preemptions = field::Empty,
        kr.batch.size.mean = field::Empty,
        kr.batch.size.max = field::Empty,
    );
    telemetry::set_parent(&span, traceparent);
    span
}

/// Opens the first phase: on its way to the engine, which reads it between two steps. Dropping a phase closes it.
pub(crate) fn waiting(sequence: &Span) -> Span {
    tracing::info_span!(parent: sequence, "worker.waiting")
}

/// Opens the second phase, up to the first token: the wait for a slot, then the prompt's computation.
pub(crate) fn prefill(sequence: &Span) -> Span {
    tracing::info_span!(parent: sequence, "prefill")
}

/// Opens the last phase: tokens come.
pub(crate) fn decode(sequence: &Span) -> Span {
    tracing::info_span!(parent: sequence, "decode")
}

/// Writes down that the sequence was not taken. `message` says why; it must not hold text of a request.
pub(crate) fn rejected(sequence: &Span, message: &str) {
    sequence.record(semantic::span::STATUS_CODE, "error");
    sequence.record(semantic::span::STATUS_DESCRIPTION, message);
}

/// Writes down how the sequence ended.
pub(crate) fn finished(sequence: &Span, finish: &Finish, generated_tokens: u64) {
    let timings = &finish.timings;
    sequence.record(semantic::gen_ai::USAGE_OUTPUT_TOKENS, generated_tokens);
    sequence.record(semantic::gen_ai::RESPONSE_FINISH_REASONS, finish.reason.as_str());
    sequence.record("kr.sequence.cached_tokens", timings.cached_tokens);
    sequence.record("kr.sequence.steps", timings.steps);
    sequence.record("kr.sequence.prefill_chunks", timings.prefill_chunks);
    sequence.record("kr.sequence.preemptions", timings.preemptions);
    sequence.record("kr.batch.size.mean", timings.mean_batch);
    sequence.record("kr.batch.size.max", timings.max_batch);
    if finish.reason == FinishReason::Error {
        sequence.record(semantic::span::STATUS_CODE, "error");
        sequence.record(
            semantic::span::STATUS_DESCRIPTION,
            finish.message.as_deref().unwrap_or("failed"),
        );
    }
}
