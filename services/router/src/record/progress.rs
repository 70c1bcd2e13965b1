//! What is measured of one choice of a request: its moments, its tokens and how it ended.

use std::time::{Duration, Instant};

use kr_contract::FinishReason;
use tracing::Span;

use crate::clock;
use crate::sequence::{Accepted, Finished};

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

/// Moments of one choice, or of all choices of a request together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    /// From the request's arrival until it was sent to the worker that took it.
    queue: Option<Duration>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    stall: Duration,
}

impl Moments {
    /// Returns the moments of both together: the earlier beginnings and the later end.
    pub(super) fn with(self, other: Self) -> Self {
        let earlier = |one: Option<Instant>, other: Option<Instant>| one.into_iter().chain(other).min();
        Self {
            queue: self.queue.into_iter().chain(other.queue).min(),
            first_token: earlier(self.first_token, other.first_token),
            last_token: self.last_token.max(other.last_token),
            stall: self.stall.max(other.stall),
        }
    }

    /// Returns the times of a request that `arrived` then.
    pub(super) fn times(self, arrived: Instant) -> Times {
        let total = clock::now().saturating_duration_since(arrived);
        let since = |later: Instant, earlier: Instant| later.saturating_duration_since(earlier);
        let queue = self.queue.unwrap_or(total);
        let dispatched = arrived + queue;
        let tokens = self.first_token.zip(self.last_token);
        Times {
            queue,
            prefill: self.first_token.map(|first| since(first, dispatched)),
            decode: tokens.map(|(first, last)| since(last, first)),
            to_first_token: self.first_token.map(|first| since(first, arrived)),
            stall: self.stall,
            total,
        }
    }
}

/// How a choice ended.
#[derive(Debug, Clone)]
pub(crate) struct ChoiceEnd {
    pub(crate) reason: FinishReason,
    /// The worker's, where it gave them.
    pub(crate) figures: Option<Finished>,
}

/// One choice's part of a [`Record`](super::Record).
#[derive(Debug)]
pub(crate) struct Progress {
    /// The request's.
    span: Span,
    /// The span of the present phase: queued, prefill, decode.
    phase: Span,
    pub(super) moments: Moments,
    acceptance: Option<Accepted>,
    generated: u32,
    end: Option<ChoiceEnd>,
}

impl Progress {
    /// Begins with the wait in the queue; `span` is the request's.
    pub(super) fn queued(span: &Span) -> Self {
        Self {
            phase: tracing::info_span!(parent: span, "queued"),
            span: span.clone(),
            moments: Moments::default(),
            acceptance: None,
            generated: 0,
            end: None,
        }
    }

    pub(super) fn accepted(&mut self, accepted: Accepted) {
        self.moments.queue = Some(accepted.queue_time);
        self.acceptance = Some(accepted);
        self.phase = tracing::info_span!(parent: &self.span, "prefill");
    }

    pub(super) fn token(&mut self) {
        let now = clock::now();
        if self.moments.first_token.is_none() {
            self.moments.first_token = Some(now);
            self.phase = tracing::info_span!(parent: &self.span, "decode");
        }
        self.moments.last_token = Some(now);
        self.generated += 1;
    }

    /// Notes the end. `stall` is how long, all in all, it stood still because its client did not read.
    pub(super) fn ended(&mut self, end: ChoiceEnd, stall: Duration) {
        self.phase = Span::none();
        self.moments.stall = stall;
        self.end = Some(end);
    }

    /// Closes the span of the present phase.
    pub(super) fn close(&mut self) {
        self.phase = Span::none();
    }

    pub(crate) fn acceptance(&self) -> Option<&Accepted> {
        self.acceptance.as_ref()
    }

    /// Returns how many tokens were generated, which is also the index of the next one.
    pub(crate) fn generated(&self) -> u32 {
        self.generated
    }

    pub(crate) fn end(&self) -> Option<&ChoiceEnd> {
        self.end.as_ref()
    }

    pub(crate) fn figures(&self) -> Option<&Finished> {
        self.end.as_ref()?.figures.as_ref()
    }
}
