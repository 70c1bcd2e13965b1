//! One sequence: its tokens, how far they are computed, and where its time went.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use kr_contract::{FinishReason, SamplingParams, SequenceId, TokenId};

use crate::SequenceRequest;
use crate::frame::Timings;
use crate::model::{BucketId, CopyCost, Input, ModelLimits, Sample, SlotId, TokenHistory};

/// Whose turn it is: higher priority first, then the earlier arrival. Names a sequence uniquely in one scheduler's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) priority: Reverse<i32>,
    pub(super) arrival: u64,
}

/// A running sequence's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) slot: SlotId,
    /// What the slot holds now.
    pub(super) bucket: BucketId,
    /// What it may grow to.
    pub(super) reserved_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) turn: Turn,
    pub(super) lease: Option<Lease>,
    /// Steps planned and not applied that use its slot.
    pub(super) open_steps: u32,
    pub(super) journal: Journal,
    params: Arc<SamplingParams>,
    end_ids: Vec<TokenId>,
    stop_ids: Vec<TokenId>,
    /// Not to be chosen below `min_tokens`.
    forbidden: Arc<[TokenId]>,
    nothing: Arc<[TokenId]>,
    /// Every token read; kept only where penalties look at it.
    history: Option<Arc<TokenHistory>>,
    /// Prompt, emitted and generated tokens that were read.
    tokens: Vec<TokenId>,
    prompt_tokens: u32,
    /// Prompt and emitted tokens: what has to be prefilled.
    known_tokens: u32,
    /// Length of prompt and answer at which it ends.
    max_length: u32,
    /// Positions that planned steps have written, or will have.
    planned: u32,
    /// Tokens that planned steps choose and that were not read yet.
    unread: u32,
}

/// What a sequence adds to the next step.
#[derive(Debug)]
pub(super) struct NextInput {
    pub(super) start: u32,
    pub(super) input: Input,
    pub(super) sample: Option<Sample>,
}

impl NextInput {
    /// Returns how many positions are written once this has run.
    pub(super) fn end(&self) -> u32 {
        self.start + self.tokens()
    }

    pub(super) fn tokens(&self) -> u32 {
        crate::count(self.input.len())
    }
}

impl Sequence {
    pub(super) fn new(request: SequenceRequest, turn: Turn, context_tokens: u32, now: Instant) -> Self {
        let known_tokens = request.known_tokens();
        let prompt_tokens = crate::count(request.prompt.len());
        let history = TokenHistory::is_needed(&request.sampling).then(|| {
            let mut history = TokenHistory::default();
            history.add_prompt(&request.prompt);
            request.emitted.iter().for_each(|id| history.add_generated(*id));
            Arc::new(history)
        });
        let mut tokens = request.prompt;
        tokens.extend(request.emitted);
        let forbidden = request.end_ids.iter().chain(&request.stop_ids).copied().collect();
        Self {
            id: request.id,
            turn,
            lease: None,
            open_steps: 0,
            journal: Journal::new(now),
            params: request.sampling,
            end_ids: request.end_ids,
            stop_ids: request.stop_ids,
            forbidden,
            nothing: Arc::default(),
            history,
            tokens,
            prompt_tokens,
            known_tokens,
            max_length: known_tokens.saturating_add(request.max_tokens).min(context_tokens),
            planned: 0,
            unread: 0,
        }
    }

    /// Returns the buckets it needs: to start with, and at its longest.
    pub(super) fn buckets(&self, limits: &ModelLimits) -> Option<(BucketId, BucketId)> {
        let first = limits.bucket_for(self.max_length.min(self.known_tokens + 1))?;
        Some((first, limits.bucket_for(self.max_length)?))
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.prefill_left() > 0
    }

    /// Returns the prompt and emitted tokens that no planned step covers.
    pub(super) fn prefill_left(&self) -> u32 {
        self.known_tokens.saturating_sub(self.planned)
    }

    /// Returns how many generated tokens were read, emitted ones included.
    pub(super) fn generated(&self) -> u32 {
        self.read() - self.prompt_tokens
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.params.logprobs.is_some()
    }

    fn read(&self) -> u32 {
        crate::count(self.tokens.len())
    }

    /// Returns what to run next in at most `room` tokens; `None` where there is nothing to run before a token is read.
    pub(super) fn next_input(&self, room: u32) -> Option<NextInput> {
        let (start, read) = (self.planned, self.read());
        if room == 0 || read + self.unread >= self.max_length {
            return None;
        }
        if start == read {
            // Penalties look at the unread token too.
            let can_run = self.unread > 0 && self.history.is_none();
            return can_run.then(|| NextInput {
                start,
                input: Input::Pending,
                sample: Some(self.sample()),
            });
        }
        let end = read.min(start.saturating_add(room));
        let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
        Some(NextInput {
            start,
            input: Input::Tokens(self.tokens.get(range)?.to_vec()),
            sample: (end == read).then(|| self.sample()),
        })
    }

    fn sample(&self) -> Sample {
        let position = self.generated() + self.unread;
        let below_minimum = position < self.params.min_tokens;
        Sample {
            params: Arc::clone(&self.params),
            position,
            forbidden: Arc::clone(if below_minimum { &self.forbidden } else { &self.nothing }),
            history: self.history.clone(),
        }
    }

    /// Notes that `next` is part of a planned step.
    pub(super) fn plan(&mut self, next: &NextInput) {
        self.planned = next.end();
        self.unread += u32::from(next.sample.is_some());
        self.open_steps += 1;
    }

    /// Adds the token that the oldest open step chose, and returns whether that ends the sequence.
    pub(super) fn push(&mut self, token: TokenId) -> Option<FinishReason> {
        let may_stop = self.generated() >= self.params.min_tokens;
        self.tokens.push(token);
        if let Some(history) = &mut self.history {
            // No copy: the plans that shared it are done.
            Arc::make_mut(history).add_generated(token);
        }
        self.unread = self.unread.saturating_sub(1);
        let is_end = !self.params.ignore_eos && self.end_ids.contains(&token);
        if may_stop && (is_end || self.stop_ids.contains(&token)) {
            return Some(FinishReason::Stop);
        }
        (self.read() >= self.max_length).then_some(FinishReason::Length)
    }
}

/// Where a sequence's time went.
#[derive(Debug)]
pub(super) struct Journal {
    admitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    copies: CopyCost,
    prefill_chunks: u32,
    steps: u32,
    batch_total: u32,
    max_batch: u32,
}

impl Journal {
    fn new(now: Instant) -> Self {
        Self {
            admitted: now,
            started: None,
            first_token: None,
            copies: CopyCost::default(),
            prefill_chunks: 0,
            steps: 0,
            batch_total: 0,
            max_batch: 0,
        }
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.started.get_or_insert(now);
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

    pub(super) fn timings(&self, now: Instant) -> Timings {
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        #[expect(clippy::cast_possible_truncation, reason = "a mean for people, not for sums")]
        let mean_batch = (f64::from(self.batch_total) / f64::from(self.steps.max(1))) as f32;
        Timings {
            waiting: started.saturating_duration_since(self.admitted),
            prefill: first_token.saturating_duration_since(started),
            decode: now.saturating_duration_since(first_token),
            cached_tokens: 0,
            copied_bytes: self.copies.bytes,
            copy_time: self.copies.elapsed,
            prefill_chunks: self.prefill_chunks,
            steps: self.steps,
            mean_batch,
            max_batch: self.max_batch,
            preemptions: 0,
        }
    }
}
