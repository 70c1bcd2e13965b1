//! Where one sequence's time went.

use std::time::Instant;

use crate::frame::Timings;
use crate::model::CopyCost;

#[derive(Debug)]
pub(super) struct Journal {
    admitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    cached_tokens: u32,
    copies: CopyCost,
    prefill_chunks: u32,
    steps: u32,
    batch_total: u32,
    max_batch: u32,
    preemptions: u32,
}

impl Journal {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            admitted: now,
            started: None,
            first_token: None,
            cached_tokens: 0,
            copies: CopyCost::default(),
            prefill_chunks: 0,
            steps: 0,
            batch_total: 0,
            max_batch: 0,
            preemptions: 0,
        }
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// Notes how much of the prompt came from the cache, where it was taken before anything was computed.
    pub(super) fn hit(&mut self, cached_tokens: u32) {
        if self.steps == 0 {
            self.cached_tokens = cached_tokens;
        }
    }

    pub(super) fn copied(&mut self, cost: CopyCost) {
        self.copies.bytes += cost.bytes;
        self.copies.elapsed += cost.elapsed;
    }

    /// Notes one applied step.
    pub(super) fn step(&mut self, batch: u32, is_prefill: bool) {
        self.steps += 1;
        self.prefill_chunks += u32::from(is_prefill);
        self.batch_total = self.batch_total.saturating_add(batch);
        self.max_batch = self.max_batch.max(batch);
    }

    pub(super) fn token(&mut self, now: Instant) {
        self.first_token.get_or_insert(now);
    }

    pub(super) fn preempted(&mut self) {
        self.preemptions += 1;
    }

    pub(super) fn preemptions(&self) -> u32 {
        self.preemptions
    }

    pub(super) fn timings(&self, now: Instant) -> Timings {
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        #[expect(clippy::cast_possible_truncation, reason = "a mean for people, not for sums")]
        let mean_batch = (f64::from(self.batch_total) / f64::from(self.steps.max(1))) as f32;
        Timings {
            waiting: started.saturating_duration_since(self.admitted),
            prefill: first_token.saturating_duration_since(started),
            decode: now.saturating_duration_since(first_token),
            cached_tokens: self.cached_tokens,
            copied_bytes: self.copies.bytes,
            copy_time: self.copies.elapsed,
            prefill_chunks: self.prefill_chunks,
            steps: self.steps,
            mean_batch,
            max_batch: self.max_batch,
            preemptions: self.preemptions,
        }
    }
}
