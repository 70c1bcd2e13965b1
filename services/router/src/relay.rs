//! From a sequence's events to the pieces of an answer: ids to text, stop texts, logprobs, and at the end finish reason,
//! usage and receipt. Dropping a relay drops its sequence, which cancels it.

mod answer_text;
mod receipt;

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, Stream};
use kr_contract::{FinishReason, TokenId};
use kr_proto::serve as pb;
use kr_tokenizer::{Bundle, DecodeOptions};
use tonic::Status;

use crate::admission::Permit;
use crate::error::Error;
use crate::record::{Outcome, Record};
use crate::sequence::stream::SequenceStream;
use crate::sequence::{Failed, Finished, SequenceEvent, TokenLogprobs, Tokens};
use crate::status;
pub(crate) use answer_text::AnswerText;

/// A piece of an answer, before it is Generate's or Chat's.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Piece {
    pub(crate) request_id: String,
    pub(crate) start_index: u32,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<TokenId>,
    pub(crate) logprobs: Vec<pb::TokenLogprobs>,
    pub(crate) finish: Option<pb::Finish>,
}

/// What one answer needs from its request's acceptance to its end.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) sequence: SequenceStream,
    pub(crate) text: AnswerText,
    pub(crate) record: Record,
    /// Given back with the answer.
    pub(crate) _permit: Permit,
}

impl Relay {
    /// Returns the pieces of the answer. The last one has `finish`; a status that is not OK comes after it.
    ///
    /// # Cancellation
    /// Dropping the stream cancels the sequence.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Piece, Status>> + Send + 'static {
        let running = Running {
            relay: self,
            phase: Phase::Running,
            last: VecDeque::new(),
        };
        stream::unfold(running, |mut running| async move {
            let item = running.next().await?;
            Some((item, running))
        })
    }
}

/// A relay at work.
#[derive(Debug)]
struct Running {
    relay: Relay,
    phase: Phase,
    /// What is to be sent before the sequence is asked again.
    last: VecDeque<Result<Piece, Status>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// A stop text was found and sent; the worker's figures are awaited.
    Stopping,
    Ended,
}

impl Running {
    async fn next(&mut self) -> Option<Result<Piece, Status>> {
        if self.last.is_empty() {
            match self.phase {
                Phase::Running => self.gather().await,
                Phase::Stopping => self.stopped().await,
                Phase::Ended => {}
            }
        }
        self.last.pop_front()
    }

    fn piece(&self) -> Piece {
        Piece {
            request_id: self.relay.record.request_id().to_string(),
            start_index: self.relay.record.generated(),
            ..Piece::default()
        }
    }

    /// Waits for the next piece of the answer and puts it, and what follows an end, into `last`.
    async fn gather(&mut self) {
        let mut piece = self.piece();
        loop {
            // After tokens only what is there already is taken, so that the end travels with the last of them.
            let event = if piece.token_ids.is_empty() {
                self.relay.sequence.recv().await
            } else {
                match self.relay.sequence.recv().now_or_never() {
                    Some(event) => event,
                    None => break self.last.push_back(Ok(piece)),
                }
            };
            match event {
                Some(SequenceEvent::Accepted(accepted)) => self.relay.record.accepted(accepted),
                Some(SequenceEvent::Tokens(tokens)) => {
                    if self.relay.take(tokens, &mut piece) {
                        break self.stop(piece);
                    }
                }
                Some(SequenceEvent::Finished(finished)) => break self.finish(piece, finished),
                Some(SequenceEvent::Failed(failed)) => break self.fail(piece, failed.into()),
                None => break self.fail(piece, Failed::Draining.into()),
            }
        }
    }

    /// Sends what comes before a stop text at once; the end follows with the worker's figures.
    fn stop(&mut self, piece: Piece) {
        self.relay.sequence.stop_text_found();
        self.phase = Phase::Stopping;
        self.last.push_back(Ok(piece));
    }

    async fn stopped(&mut self) {
        let figures = tokio::time::timeout(LAST_FIGURES, figures(&mut self.relay.sequence)).await;
        let finished = figures.ok().flatten();
        self.end(self.piece(), Outcome::Finished(FinishReason::Stop, finished));
    }

    fn finish(&mut self, mut piece: Piece, finished: Finished) {
        match finished.reason {
            FinishReason::Stop | FinishReason::Length => {
                let (rest, stopped) = self.relay.text.flush();
                piece.text += &rest;
                let reason = if stopped { FinishReason::Stop } else { finished.reason };
                self.end(piece, Outcome::Finished(reason, Some(finished)));
            }
            // Nobody here asked for it, so the worker gave it up.
            FinishReason::Cancelled => {
                let emitted = self.relay.record.generated();
                self.fail(piece, Failed::WorkerLost { emitted }.into());
            }
            FinishReason::Error => {
                let message = "the worker reported an error".to_owned();
                self.fail(piece, Failed::ModelFailed { message }.into());
            }
        }
    }

    fn fail(&mut self, mut piece: Piece, error: Error) {
        piece.text += &self.relay.text.flush().0;
        let error = error.after_tokens(self.relay.record.generated());
        let status = status::status(&error, self.relay.record.request_id());
        self.end(piece, Outcome::Failed(&error));
        self.last.push_back(Err(status));
    }

    fn end(&mut self, mut piece: Piece, outcome: Outcome<'_>) {
        self.relay.record.stalled(self.relay.sequence.unread_time());
        piece.finish = Some(receipt::finish(&self.relay.record, &outcome));
        self.relay.record.end(outcome);
        self.phase = Phase::Ended;
        self.last.push_back(Ok(piece));
    }
}

/// How long the end of an answer waits for the worker's figures after a stop text.
const LAST_FIGURES: Duration = Duration::from_millis(250);

async fn figures(sequence: &mut SequenceStream) -> Option<Finished> {
    loop {
        match sequence.recv().await? {
            SequenceEvent::Finished(finished) => return Some(finished),
            SequenceEvent::Failed(_) => return None,
            SequenceEvent::Accepted(_) | SequenceEvent::Tokens(_) => {}
        }
    }
}

impl Relay {
    /// Adds tokens to a piece; returns whether a stop text ended the answer, and then leaves out the tokens past it.
    fn take(&mut self, tokens: Tokens, piece: &mut Piece) -> bool {
        let mut logprobs = tokens.logprobs.into_iter();
        for id in tokens.ids {
            let (text, stopped) = self.text.push(id);
            piece.text += &text;
            piece.token_ids.push(id);
            if let Some(logprobs) = logprobs.next() {
                piece.logprobs.push(named(id, logprobs, self.text.bundle()));
            }
            self.record.token();
            if stopped {
                return true;
            }
        }
        false
    }
}

fn named(id: TokenId, logprobs: TokenLogprobs, bundle: &Bundle) -> pb::TokenLogprobs {
    let whole = DecodeOptions {
        keep_special_tokens: true,
    };
    let top = logprobs.top.into_iter().map(|(token_id, logprob)| {
        let text = bundle.decode(&[token_id], whole).unwrap_or_default();
        pb::TopLogprob {
            token_id,
            logprob,
            text: if text.contains('\u{fffd}') { String::new() } else { text },
        }
    });
    pb::TokenLogprobs {
        token_id: id,
        logprob: logprobs.chosen,
        top: top.collect(),
    }
}

macro_rules! from_piece {
    ($($response:ident),*) => {$(
        impl From<Piece> for pb::$response {
            fn from(piece: Piece) -> Self {
                Self {
                    request_id: piece.request_id,
                    choice_index: 0,
                    start_index: piece.start_index,
                    text: piece.text,
                    token_ids: piece.token_ids,
                    logprobs: piece.logprobs,
                    prompt_logprobs: Vec::new(),
                    finish: piece.finish,
                }
            }
        }
    )*};
}
from_piece!(GenerateResponse, ChatResponse);

#[cfg(test)]
mod tests;
