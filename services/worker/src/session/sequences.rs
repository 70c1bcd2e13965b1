//! The session's live sequences: what to count when they end, and the spans that show them in a trace.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use kr_contract::SequenceId;
use kr_engine::SequenceRequest;
use kr_engine::frame::SequenceUpdate;
use tracing::Span;

use crate::metrics::Metrics;
use crate::trace;

/// The session's live sequences.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    live: HashMap<SequenceId, Sequence>,
    /// Prompt and emitted tokens of sequences that the engine has neither taken nor refused: not in its load yet.
    unread_tokens: u64,
}

#[derive(Debug)]
struct Sequence {
    span: Span,
    phase: Span,
    /// Emitted ones included.
    prompt_tokens: u64,
    /// Whether the engine looks for its prompt in the prefix cache.
    looked_up: bool,
    read: bool,
    generated_tokens: u64,
}

impl Sequences {
    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.live.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn unread_tokens(&self) -> u64 {
        self.unread_tokens
    }

    /// Adds a sequence that goes to the engine. `traceparent` is the router's span.
    pub(super) fn add(&mut self, request: &SequenceRequest, attempt: u32, traceparent: &str) {
        let prompt_tokens = u64::from(request.known_tokens());
        let span = trace::sequence(request, attempt, traceparent);
        self.unread_tokens += prompt_tokens;
        let sequence = Sequence {
            phase: trace::waiting(&span),
            span,
            prompt_tokens,
            looked_up: !request.bypass_prefix_cache && request.prompt_logprobs.is_none(),
            read: false,
            generated_tokens: 0,
        };
        self.live.insert(request.id, sequence);
    }

    /// The engine took the sequence.
    pub(super) fn accepted(&mut self, id: SequenceId) {
        if let Some(sequence) = self.live.get_mut(&id) {
            self.unread_tokens -= sequence.tokens_read_now();
            sequence.phase = trace::prefill(&sequence.span);
        }
    }

    /// The engine refused the sequence.
    pub(super) fn rejected(&mut self, id: SequenceId, message: &str) {
        if let Some(mut sequence) = self.live.remove(&id) {
            self.unread_tokens -= sequence.tokens_read_now();
            trace::rejected(&sequence.span, message);
        }
    }

    /// The engine has news of the sequence.
    pub(super) fn updated(&mut self, update: &SequenceUpdate, metrics: &Metrics) {
        let Some(sequence) = self.live.get_mut(&update.id) else {
            return;
        };
        if sequence.generated_tokens == 0 && !update.ids.is_empty() {
            metrics.prompt_computed(sequence.prompt_tokens);
            sequence.phase = trace::decode(&sequence.span);
        }
        sequence.generated_tokens += u64::try_from(update.ids.len()).unwrap_or(u64::MAX);
        let Some(finish) = &update.finish else {
            return;
        };
        if let Some(mut sequence) = self.live.remove(&update.id) {
            self.unread_tokens -= sequence.tokens_read_now();
            if sequence.looked_up {
                metrics.looked_up(sequence.prompt_tokens);
            }
            metrics.finished(finish, sequence.generated_tokens);
            trace::finished(&sequence.span, finish, sequence.generated_tokens);
        }
    }
}

impl Sequence {
    /// Notes that the engine knows of the sequence; returns its prompt tokens where it did not before.
    fn tokens_read_now(&mut self) -> u64 {
        let known = std::mem::replace(&mut self.read, true);
        if known { 0 } else { self.prompt_tokens }
    }
}
