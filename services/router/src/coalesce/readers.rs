//! The clients of one sequence: the first, and whoever joined while it was waiting or running. Late ones get what there is
//! already, then what comes; each is bounded and ended by itself.

use std::time::Instant;

use kr_contract::TokenId;

use crate::sequence::{Accepted, Failed, Finished, Priority, SequenceKey, SequenceSender, TokenLogprobs, Tokens};

/// Whether a reader came first or joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    First,
    Later,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) key: SequenceKey,
    pub(crate) sender: SequenceSender,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) priority: Priority,
    pub(crate) joined: Joined,
}

impl Reader {
    fn accepted(&mut self, accepted: &Accepted, sent: Instant) {
        self.sender.accepted(Accepted {
            queue_time: sent.saturating_duration_since(self.arrived),
            coalesced: self.joined == Joined::Later,
            ..accepted.clone()
        });
    }
}

/// All clients of a sequence; never none while it is alive.
#[derive(Debug)]
pub(crate) struct Readers {
    list: Vec<Reader>,
    /// What the worker said when it took the sequence, and when that was sent to it.
    accepted: Option<(Accepted, Instant)>,
    /// Of all tokens so far, where they were asked for and somebody may still join.
    logprobs: Vec<TokenLogprobs>,
}

impl Readers {
    pub(crate) fn new(first: Reader) -> Self {
        Self {
            list: vec![first],
            accepted: None,
            logprobs: Vec::new(),
        }
    }

    /// Takes in a late client, with the tokens there are.
    pub(crate) fn join(&mut self, mut reader: Reader, emitted: &[TokenId], now: Instant) {
        if let Some((accepted, sent)) = &self.accepted {
            reader.accepted(accepted, *sent);
        }
        if !emitted.is_empty() {
            let tokens = Tokens {
                start_index: 0,
                ids: emitted.to_vec(),
                logprobs: self.logprobs.clone(),
            };
            // The first tokens of a stream always have room.
            let _ = reader.sender.tokens(tokens, now);
        }
        self.list.push(reader);
    }

    /// Takes out a client who needs no more.
    pub(crate) fn leave(&mut self, key: SequenceKey) -> Option<Reader> {
        let index = self.list.iter().position(|reader| reader.key == key)?;
        Some(self.list.remove(index))
    }

    pub(crate) fn contains(&self, key: SequenceKey) -> bool {
        self.list.iter().any(|reader| reader.key == key)
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Reader> {
        self.list.iter()
    }

    /// Returns when the last of them has no more time; `None` where one has no deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.list.iter().map(|reader| reader.deadline);
        deadlines.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Returns the highest of their priorities.
    pub(crate) fn priority(&self) -> Priority {
        let priorities = self.list.iter().map(|reader| reader.priority);
        priorities.max().unwrap_or(Priority::Normal)
    }

    /// Tells all that a worker took the sequence, which was `sent` to it then.
    pub(crate) fn accepted(&mut self, accepted: Accepted, sent: Instant) {
        self.list.iter_mut().for_each(|reader| reader.accepted(&accepted, sent));
        self.accepted = Some((accepted, sent));
    }

    pub(crate) fn prompt_logprobs(&mut self, logprobs: &[TokenLogprobs]) {
        for reader in &mut self.list {
            reader.sender.prompt_logprobs(logprobs.to_vec());
        }
    }

    /// Gives all of them tokens; returns those who are too slow, who stay in the list. `keep`: somebody may still join.
    pub(crate) fn tokens(&mut self, tokens: Tokens, keep: bool, now: Instant) -> Vec<SequenceKey> {
        if keep {
            self.logprobs.extend_from_slice(&tokens.logprobs);
        }
        let mut slow = Vec::new();
        let Some((last, others)) = self.list.split_last_mut() else {
            return slow;
        };
        for reader in others {
            if reader.sender.tokens(tokens.clone(), now).is_err() {
                slow.push(reader.key);
            }
        }
        if last.sender.tokens(tokens, now).is_err() {
            slow.push(last.key);
        }
        slow
    }

    pub(crate) fn finish(self, finished: &Finished) {
        for reader in self.list {
            reader.sender.finish(finished.clone());
        }
    }

    pub(crate) fn fail(self, failed: &Failed) {
        for reader in self.list {
            reader.sender.fail(failed.clone());
        }
    }
}
