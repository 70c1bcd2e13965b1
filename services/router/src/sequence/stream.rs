//! The way of a sequence's events to the edge, and of its cancellation back. Unread tokens are merged into one event, so a
//! stream holds four events at most and a slow reader costs memory up to [`StreamLimits`] (and its prompt's log probabilities,
//! if it asked for them) and nobody else anything.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock;

use super::{Accepted, CancelReason, Failed, Finished, SequenceEvent, SequenceKey, TokenLogprobs, Tokens};

/// How far a reader may fall behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamLimits {
    /// Tokens that may lie unread.
    pub(crate) unread_tokens: usize,
    /// How long a token may lie unread.
    pub(crate) stall: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            unread_tokens: 2048,
            stall: Duration::from_secs(10),
        }
    }
}

/// A reader that takes this long may only have waited for its turn on a core.
const NO_STALL: Duration = Duration::from_millis(50);

/// The reader is further behind than [`StreamLimits`] allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader is too slow")]
pub(crate) struct TooSlow;

/// Sequences whose streams were dropped or need no more, until the dispatcher takes them. Adding never fails and never
/// waits; there are at most two entries for each live sequence.
#[derive(Debug, Default)]
pub(crate) struct Cancellations {
    list: Mutex<Vec<(SequenceKey, CancelReason)>>,
    added: Notify,
}

impl Cancellations {
    fn add(&self, key: SequenceKey, reason: CancelReason) {
        lock(&self.list).push((key, reason));
        self.added.notify_one();
    }

    /// Waits until there are any and returns them all.
    ///
    /// # Cancellation
    /// Loses none.
    pub(crate) async fn taken(&self) -> Vec<(SequenceKey, CancelReason)> {
        loop {
            let list = mem::take(&mut *lock(&self.list));
            if !list.is_empty() {
                return list;
            }
            self.added.notified().await;
        }
    }
}

#[derive(Debug, Default)]
struct Unread {
    accepted: Option<Accepted>,
    prompt_logprobs: Vec<TokenLogprobs>,
    tokens: Option<Tokens>,
    tokens_since: Option<Instant>,
    end: Option<SequenceEvent>,
    /// Nothing comes any more, not even an end.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    unread: Mutex<Unread>,
    readable: Notify,
}

/// Makes a stream and its sender. Dropping the stream adds `key` to `cancellations`.
pub(crate) fn channel(
    key: SequenceKey,
    cancellations: Arc<Cancellations>,
    limits: StreamLimits,
) -> (SequenceSender, SequenceStream) {
    let shared = Arc::new(Shared::default());
    let sender = SequenceSender {
        shared: shared.clone(),
        limits,
        scored: 0,
        scored_by_this_worker: 0,
    };
    let stream = SequenceStream {
        shared,
        cancellations,
        key,
        ended: false,
        unread_time: Duration::ZERO,
    };
    (sender, stream)
}

/// Makes a stream that no dispatcher feeds.
#[cfg(test)]
pub(crate) fn detached() -> (SequenceSender, SequenceStream) {
    channel(SequenceKey(0), Arc::default(), StreamLimits::default())
}

/// The dispatcher's end. Nothing here waits. Dropping it unended ends the stream with [`Failed::Draining`].
#[derive(Debug)]
pub(crate) struct SequenceSender {
    shared: Arc<Shared>,
    limits: StreamLimits,
    /// Log probabilities of the prompt that were passed on,
    scored: usize,
    /// and those that the present worker gave: after a loss it begins again.
    scored_by_this_worker: usize,
}

impl SequenceSender {
    pub(crate) fn accepted(&mut self, accepted: Accepted) {
        self.scored_by_this_worker = 0;
        lock(&self.shared.unread).accepted = Some(accepted);
        self.shared.readable.notify_one();
    }

    /// Adds log probabilities of the prompt, which continue those the same worker gave before; what an earlier worker gave
    /// already is left out.
    pub(crate) fn prompt_logprobs(&mut self, logprobs: Vec<TokenLogprobs>) {
        let known = self.scored.saturating_sub(self.scored_by_this_worker);
        self.scored_by_this_worker += logprobs.len();
        self.scored = self.scored.max(self.scored_by_this_worker);
        lock(&self.shared.unread)
            .prompt_logprobs
            .extend(logprobs.into_iter().skip(known));
        self.shared.readable.notify_one();
    }

    /// Adds tokens, which continue those sent before.
    ///
    /// # Errors
    /// [`TooSlow`]: the tokens were not added; end the sequence.
    pub(crate) fn tokens(&mut self, tokens: Tokens, now: Instant) -> Result<(), TooSlow> {
        let mut unread = lock(&self.shared.unread);
        let since = *unread.tokens_since.get_or_insert(now);
        if now.saturating_duration_since(since) > self.limits.stall {
            return Err(TooSlow);
        }
        match &mut unread.tokens {
            None => unread.tokens = Some(tokens),
            Some(waiting) if waiting.ids.len() + tokens.ids.len() > self.limits.unread_tokens => return Err(TooSlow),
            Some(waiting) => {
                waiting.ids.extend(tokens.ids);
                waiting.logprobs.extend(tokens.logprobs);
            }
        }
        drop(unread);
        self.shared.readable.notify_one();
        Ok(())
    }

    pub(crate) fn finish(self, finished: Finished) {
        self.end(SequenceEvent::Finished(finished));
    }

    pub(crate) fn fail(self, failed: Failed) {
        self.end(SequenceEvent::Failed(failed));
    }

    /// Ends the stream without an event, for a reader that has all it wants.
    pub(crate) fn close(self) {
        lock(&self.shared.unread).closed = true;
        self.shared.readable.notify_one();
    }

    fn end(&self, event: SequenceEvent) {
        lock(&self.shared.unread).end.get_or_insert(event);
        self.shared.readable.notify_one();
    }

    /// Returns whether the stream was dropped.
    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

impl Drop for SequenceSender {
    fn drop(&mut self) {
        self.end(SequenceEvent::Failed(Failed::Draining));
    }
}

/// A running sequence as the edge holds it. Dropping it cancels the sequence: it leaves the queue at once, or is in no step
/// that the worker plans after it reads the cancel.
#[derive(Debug)]
pub(crate) struct SequenceStream {
    shared: Arc<Shared>,
    cancellations: Arc<Cancellations>,
    key: SequenceKey,
    ended: bool,
    unread_time: Duration,
}

impl SequenceStream {
    /// Returns for how long, all in all, tokens have lain here unread, leaving out what is below [`NO_STALL`].
    pub(crate) fn unread_time(&self) -> Duration {
        self.unread_time
    }

    /// Returns the next event; `None` after the last one. A reader who stays away too long gets [`Failed::SlowConsumer`].
    ///
    /// # Cancellation
    /// Loses nothing.
    pub(crate) async fn recv(&mut self) -> Option<SequenceEvent> {
        while !self.ended {
            if let Some(event) = self.take() {
                return Some(event);
            }
            if self.ended {
                break;
            }
            self.shared.readable.notified().await;
        }
        None
    }

    /// Cancels the sequence because its text is complete; not counted as a client that left. No further tokens come, only
    /// the end with the worker's figures: [`SequenceEvent::Finished`], as a rule with
    /// [`Cancelled`](kr_contract::FinishReason::Cancelled). It takes a step, so whoever waits for it sets a deadline.
    pub(crate) fn stop_text_found(&mut self) {
        if !self.ended {
            self.cancellations.add(self.key, CancelReason::StopText);
        }
    }

    fn take(&mut self) -> Option<SequenceEvent> {
        let mut unread = lock(&self.shared.unread);
        if let Some(accepted) = unread.accepted.take() {
            return Some(SequenceEvent::Accepted(accepted));
        }
        if !unread.prompt_logprobs.is_empty() {
            return Some(SequenceEvent::PromptLogprobs(mem::take(&mut unread.prompt_logprobs)));
        }
        if let Some(tokens) = unread.tokens.take() {
            if let Some(since) = unread.tokens_since.take() {
                let lay = clock::now().saturating_duration_since(since);
                self.unread_time += if lay < NO_STALL { Duration::ZERO } else { lay };
            }
            return Some(SequenceEvent::Tokens(tokens));
        }
        if unread.closed {
            self.ended = true;
            return None;
        }
        let end = unread.end.take();
        self.ended = end.is_some();
        end
    }
}

impl Drop for SequenceStream {
    fn drop(&mut self) {
        if !self.ended {
            self.cancellations.add(self.key, CancelReason::ClientGone);
        }
    }
}

/// Nothing in this file panics while it holds a lock, so what a poisoned one guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
