//! One sequence: its tokens, how far they are computed, and what it adds to the next step.

mod prefix;
mod scores;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use kr_contract::{FinishReason, SamplingParams, SequenceId, TokenId};

use super::hold::Hold;
use super::journal::Journal;
use super::plan::OpenEntry;
use crate::SequenceRequest;
use crate::model::{BucketId, Input, ModelLimits, Sample, Score, SlotId, TokenHistory};
pub(super) use prefix::Prefix;
use scores::PromptScores;

/// Whose turn it is: higher priority first, then the earlier arrival. Names a sequence uniquely in one scheduler's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) turn: Turn,
    pub(super) lease: Option<Lease>,
    /// Steps planned and not applied that use its slot.
    pub(super) open_steps: u32,
    pub(super) journal: Journal,
    /// Preempted while a step used its slot: it is in no further plan, and waits again once that step is done.
    pub(super) is_vacating: bool,
    /// Ended by itself: what it computed is worth keeping.
    pub(super) is_complete: bool,
    /// Times in a row that the model had no memory for it although nobody else held any.
    pub(super) memory_failures: u32,
    /// Its dealings with the prefix cache; `None` where it has none.
    pub(super) prefix: Option<Prefix>,
    pub(super) hold: Hold,
    scores: Option<PromptScores>,
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
    /// Tokens there were when it started: what has to be prefilled.
    known_tokens: u32,
    /// Length of prompt and answer at which it ends.
    max_length: u32,
    /// Positions that applied steps and copies have written.
    computed: u32,
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
    pub(super) score: Option<Score>,
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
    pub(super) fn new(request: SequenceRequest, turn: Turn, limits: &ModelLimits, now: Instant) -> Self {
        let known_tokens = request.known_tokens();
        let prompt_tokens = crate::count(request.prompt.len());
        let forbidden = request.end_ids.iter().chain(&request.stop_ids).copied().collect();
        let history = TokenHistory::is_needed(&request.sampling).then(|| {
            let mut history = TokenHistory::default();
            history.add_prompt(&request.prompt);
            request.emitted.iter().for_each(|id| history.add_generated(*id));
            Arc::new(history)
        });
        let uses_cache = limits.store_blocks > 0 && !request.bypass_prefix_cache;
        let mut tokens = request.prompt;
        tokens.extend(request.emitted);
        let prefix = uses_cache.then(|| Prefix::new(&request.cache_salt, limits.block_tokens, &tokens));
        Self {
            id: request.id,
            turn,
            lease: None,
            open_steps: 0,
            journal: Journal::new(now),
            is_vacating: false,
            is_complete: false,
            memory_failures: 0,
            prefix,
            hold: Hold::default(),
            scores: request.prompt_logprobs.map(|top| PromptScores::new(top, prompt_tokens)),
            params: request.sampling,
            end_ids: request.end_ids,
            stop_ids: request.stop_ids,
            forbidden,
            nothing: Arc::default(),
            history,
            tokens,
            prompt_tokens,
            known_tokens,
            max_length: known_tokens
                .saturating_add(request.max_tokens)
                .min(limits.context_tokens),
            computed: 0,
            planned: 0,
            unread: 0,
        }
    }

    /// Returns the slot length it starts with: its known tokens and one more, or all it may ever need.
    pub(super) fn start_tokens(&self, is_whole: bool) -> u32 {
        if is_whole {
            return self.max_length;
        }
        self.max_length.min(self.known_tokens.saturating_add(1))
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.prefill_left() > 0
    }

    /// Returns the tokens known at its start that no planned step covers.
    pub(super) fn prefill_left(&self) -> u32 {
        self.known_tokens.saturating_sub(self.planned)
    }

    pub(super) fn planned(&self) -> u32 {
        self.planned
    }

    pub(super) fn computed(&self) -> u32 {
        self.computed
    }

    pub(super) fn known_tokens(&self) -> u32 {
        self.known_tokens
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Returns how many generated tokens were read, emitted ones included.
    pub(super) fn generated(&self) -> u32 {
        self.read() - self.prompt_tokens
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.params.logprobs.is_some()
    }

    /// Returns whether it may take its prefix from the cache: not while prompt tokens are to be scored.
    pub(super) fn may_hit(&self) -> bool {
        self.scores.as_ref().is_none_or(PromptScores::is_done)
    }

    fn read(&self) -> u32 {
        crate::count(self.tokens.len())
    }

    /// Returns how many positions the slot must hold for its next decoded token, where one can run now.
    pub(super) fn next_decode(&self) -> Option<u32> {
        let is_decoding = !self.is_prefilling() && self.may_run();
        let can_run = self.planned < self.read() || self.may_run_unread();
        (is_decoding && can_run).then(|| self.planned + 1)
    }

    fn may_run(&self) -> bool {
        !self.is_vacating && self.read() + self.unread < self.max_length
    }

    /// Returns whether the token chosen last may be run before it is read: penalties have to see it first.
    fn may_run_unread(&self) -> bool {
        self.unread > 0 && self.history.is_none()
    }

    /// Returns what to run next in at most `room` tokens; `None` where there is nothing to run before a token is read.
    pub(super) fn next_input(&self, room: u32) -> Option<NextInput> {
        let (start, read) = (self.planned, self.read());
        if room == 0 || !self.may_run() {
            return None;
        }
        if start == read {
            return self.may_run_unread().then(|| NextInput {
                start,
                input: Input::Pending,
                sample: Some(self.sample()),
                score: None,
            });
        }
        let mut end = read.min(start.saturating_add(room));
        if let Some(scores) = &self.scores {
            end = scores.cut(start, end);
        }
        let tokens = self.tokens.get(index(start)..index(end))?;
        let score = self.scores.as_ref();
        Some(NextInput {
            start,
            input: Input::Tokens(tokens.to_vec()),
            sample: (end == read).then(|| self.sample()),
            score: score.and_then(|scores| scores.of(&self.tokens, start, end)),
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
        if let Some(scores) = &mut self.scores {
            scores.plan(next.end());
        }
    }

    /// Takes back the newest planned entry: that step does not run.
    pub(super) fn unplan(&mut self, entry: &OpenEntry) {
        self.planned = entry.start;
        self.unread -= u32::from(entry.samples);
        self.open_steps -= 1;
        if let Some(scores) = self.scores.as_mut().filter(|_| entry.scores) {
            scores.unplan(entry.start);
        }
    }

    /// Notes that the oldest open step, which ended with position `end`, is done.
    pub(super) fn computed_to(&mut self, end: u32) {
        self.open_steps -= 1;
        self.computed = end;
    }

    /// Notes that the first `tokens` positions come from the prefix cache; 0 where the copy failed.
    pub(super) fn copied_to(&mut self, tokens: u32) {
        self.computed = tokens;
        self.planned = tokens;
    }

    /// Adds the token that the oldest open step chose, and returns whether that ends the sequence.
    pub(super) fn push(&mut self, token: TokenId) -> Option<FinishReason> {
        let may_stop = self.generated() >= self.params.min_tokens;
        self.tokens.push(token);
        if let Some(history) = &mut self.history {
            // No copy: the plans that shared it are done.
            Arc::make_mut(history).add_generated(token);
        }
        if let Some(prefix) = &mut self.prefix {
            prefix.names.extend(&self.tokens);
        }
        self.unread = self.unread.saturating_sub(1);
        let is_end = !self.params.ignore_eos && self.end_ids.contains(&token);
        if may_stop && (is_end || self.stop_ids.contains(&token)) {
            return Some(FinishReason::Stop);
        }
        (self.read() >= self.max_length).then_some(FinishReason::Length)
    }

    /// Forgets where it ran: all its tokens are known ones now, to be computed again.
    pub(super) fn reset(&mut self) {
        self.lease = None;
        self.is_vacating = false;
        self.known_tokens = self.read();
        self.computed = 0;
        self.planned = 0;
        if let Some(prefix) = &mut self.prefix {
            prefix.saved = 0;
        }
    }
}

fn index(position: u32) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
