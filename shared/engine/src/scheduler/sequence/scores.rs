//! How far a prompt's tokens are scored. Each is scored once, whatever is computed again.

use kr_contract::TokenId;

use crate::model::Score;

#[derive(Debug)]
pub(super) struct PromptScores {
    /// The most likely tokens to report beside each.
    top: u32,
    prompt_tokens: u32,
    /// What follows the tokens before this position is scored, or will be by an open step.
    next: u32,
}

impl PromptScores {
    pub(super) fn new(top: u32, prompt_tokens: u32) -> Self {
        Self {
            top,
            prompt_tokens,
            next: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.next >= self.prompt_tokens
    }

    /// Shortens a chunk so that either all of it is scored, or nothing.
    pub(super) fn cut(&self, start: u32, end: u32) -> u32 {
        if start < self.next && end > self.next {
            return self.next;
        }
        if start < self.prompt_tokens {
            return end.min(self.prompt_tokens);
        }
        end
    }

    /// Returns what to score in a chunk that was cut; `tokens` begin with the prompt.
    pub(super) fn of(&self, tokens: &[TokenId], start: u32, end: u32) -> Option<Score> {
        if start < self.next {
            return None;
        }
        let last = end.saturating_add(1).min(self.prompt_tokens);
        let targets = tokens.get(super::index(start) + 1..super::index(last))?;
        (!targets.is_empty()).then(|| Score {
            top: self.top,
            targets: targets.to_vec(),
        })
    }

    pub(super) fn plan(&mut self, end: u32) {
        self.next = self.next.max(end.min(self.prompt_tokens));
    }

    pub(super) fn unplan(&mut self, start: u32) {
        self.next = start;
    }
}
