//! From the events of a request's sequences to the pieces of its answers: ids to text, stop texts, logprobs, and at the end
//! of each finish reason, usage and receipt. Dropping a relay drops its sequences, which cancels them.

mod answer_text;
mod choice;
mod logprobs;
mod receipt;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use futures::stream::{self, Stream};
use kr_contract::{FinishReason, TokenId};
use kr_proto::serve as pb;
use tonic::Status;

use crate::admission::Permit;
use crate::error::Error;
use crate::record::{ChoiceEnd, Outcome, Record, reason_of};
use crate::sequence::{Failed, Finished, SequenceEvent, Tokens};
use crate::status;
use crate::validate::ValidRequest;
pub(crate) use answer_text::AnswerText;
use choice::News;
pub(crate) use choice::{Choice, Choices};
use logprobs::{PromptScores, named};

/// A piece of an answer, before it is Generate's or Chat's.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Piece {
    pub(crate) request_id: String,
    pub(crate) choice_index: u32,
    pub(crate) start_index: u32,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<TokenId>,
    pub(crate) logprobs: Vec<pb::TokenLogprobs>,
    pub(crate) prompt_logprobs: Vec<pb::TokenLogprobs>,
    pub(crate) finish: Option<pb::Finish>,
}

/// What the answers of one request need from its first acceptance to the end of the last.
#[derive(Debug)]
pub(crate) struct Relay {
    choices: Choices,
    record: Record,
    prompt: Option<PromptScores>,
    /// What is to be sent before the sequences are asked again.
    last: VecDeque<Result<Piece, Status>>,
    /// Given back with the last answer.
    _permits: Vec<Permit>,
}

impl Relay {
    /// Takes over a request that is running.
    pub(crate) fn new(valid: &ValidRequest, choices: Choices, record: Record, permits: Vec<Permit>) -> Self {
        let sequence = &valid.sequence;
        let scores = || PromptScores::new(&sequence.prompt, valid.model.bundle.clone());
        Self {
            choices,
            record,
            prompt: sequence.prompt_logprobs.is_some().then(scores),
            last: VecDeque::new(),
            _permits: permits,
        }
    }

    /// Returns the pieces of the answers as they come. The last one of each has `finish`; a status that is not OK comes after
    /// them.
    ///
    /// # Cancellation
    /// Dropping the stream cancels the sequences.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Piece, Status>> + Send + 'static {
        stream::unfold(self, |mut relay| async move {
            let item = relay.next().await?;
            Some((item, relay))
        })
    }

    async fn next(&mut self) -> Option<Result<Piece, Status>> {
        while self.last.is_empty() {
            let (choice, news) = self.choices.news().await?;
            self.gather(choice, news);
        }
        self.last.pop_front()
    }

    fn piece(&self, choice: usize) -> Piece {
        Piece {
            request_id: self.record.request_id().to_string(),
            choice_index: u32::try_from(choice).unwrap_or(u32::MAX),
            start_index: self.record.generated(choice),
            ..Piece::default()
        }
    }

    /// Puts what a choice says, and what follows an end, into `last`.
    fn gather(&mut self, choice: usize, news: News) {
        let mut piece = self.piece(choice);
        let mut news = Some(news);
        while let Some(now) = news {
            if self.hear(choice, &mut piece, now).is_break() {
                return;
            }
            // After tokens only what is there already is taken, so that the end travels with the last of them.
            news = if piece.token_ids.is_empty() {
                None
            } else {
                self.choices.at_once(choice)
            };
        }
        if !piece.token_ids.is_empty() {
            self.last.push_back(Ok(piece));
        }
    }

    /// Adds news of a choice to its piece; breaks where the piece is on its way with it.
    fn hear(&mut self, choice: usize, piece: &mut Piece, news: News) -> ControlFlow<()> {
        match news {
            News::Event(Some(SequenceEvent::Accepted(accepted))) => self.record.accepted(choice, accepted),
            News::Event(Some(SequenceEvent::PromptLogprobs(scores))) => {
                let chunks = self.prompt.as_mut().map(|prompt| prompt.chunks(scores));
                for prompt_logprobs in chunks.unwrap_or_default() {
                    let piece = self.piece(choice);
                    self.last.push_back(Ok(Piece {
                        prompt_logprobs,
                        ..piece
                    }));
                }
            }
            News::Event(Some(SequenceEvent::Tokens(tokens))) => {
                if self.take(choice, tokens, piece) {
                    self.stop(choice, std::mem::take(piece));
                    return ControlFlow::Break(());
                }
            }
            News::Event(Some(SequenceEvent::Finished(finished))) => {
                self.finish(choice, std::mem::take(piece), finished);
                return ControlFlow::Break(());
            }
            News::Event(Some(SequenceEvent::Failed(failed))) => {
                self.fail(choice, std::mem::take(piece), failed.into());
                return ControlFlow::Break(());
            }
            News::Event(None) => {
                self.fail(choice, std::mem::take(piece), Failed::Draining.into());
                return ControlFlow::Break(());
            }
            News::Stopped(figures) => {
                let end = ChoiceEnd {
                    reason: FinishReason::Stop,
                    figures,
                };
                self.end(choice, std::mem::take(piece), end);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Adds tokens to a piece; returns whether a stop text ended the answer, and then leaves out the tokens past it.
    fn take(&mut self, choice: usize, tokens: Tokens, piece: &mut Piece) -> bool {
        let Some(answer) = self.choices.get_mut(choice) else {
            return false;
        };
        let mut logprobs = tokens.logprobs.into_iter();
        for id in tokens.ids {
            let (text, stopped) = answer.text.push(id);
            piece.text += &text;
            piece.token_ids.push(id);
            if let Some(logprobs) = logprobs.next() {
                piece.logprobs.push(named(id, logprobs, answer.text.bundle()));
            }
            self.record.token(choice);
            if stopped {
                return true;
            }
        }
        false
    }

    /// Sends what comes before a stop text at once; the end follows with the worker's figures.
    fn stop(&mut self, choice: usize, piece: Piece) {
        if let Some(answer) = self.choices.get_mut(choice) {
            answer.stop();
        }
        self.last.push_back(Ok(piece));
    }

    /// Returns the text of a choice that was held back, and whether it completes a stop text.
    fn flush(&mut self, choice: usize) -> (String, bool) {
        let answer = self.choices.get_mut(choice);
        answer.map(|answer| answer.text.flush()).unwrap_or_default()
    }

    fn finish(&mut self, choice: usize, mut piece: Piece, finished: Finished) {
        match finished.reason {
            FinishReason::Stop | FinishReason::Length => {
                let (rest, stopped) = self.flush(choice);
                piece.text += &rest;
                let end = ChoiceEnd {
                    reason: if stopped { FinishReason::Stop } else { finished.reason },
                    figures: Some(finished),
                };
                self.end(choice, piece, end);
            }
            // Nobody here asked for it, so the worker gave it up.
            FinishReason::Cancelled => {
                let emitted = self.record.generated(choice);
                self.fail(choice, piece, Failed::WorkerLost { emitted }.into());
            }
            FinishReason::Error => {
                let message = "the worker reported an error".to_owned();
                self.fail(choice, piece, Failed::ModelFailed { message }.into());
            }
        }
    }

    /// Ends the request because of one choice: the others are cancelled, and the status says why.
    fn fail(&mut self, choice: usize, mut piece: Piece, error: Error) {
        piece.text += &self.flush(choice).0;
        let error = error.after_tokens(self.record.generated_by_all());
        let status = status::status(&error, self.record.request_id());
        let cut = |reason| ChoiceEnd { reason, figures: None };
        self.push_end(choice, piece, cut(reason_of(&error)));
        for other in self.choices.running() {
            let mut piece = self.piece(other);
            piece.text = self.flush(other).0;
            self.push_end(other, piece, cut(FinishReason::Cancelled));
        }
        self.choices = Choices::new(Vec::new());
        self.record.end(&Outcome::Failed(&error));
        self.last.push_back(Err(status));
    }

    fn end(&mut self, choice: usize, piece: Piece, end: ChoiceEnd) {
        self.push_end(choice, piece, end);
        if self.record.all_ended() {
            self.record.end(&Outcome::Answered);
        }
    }

    /// Ends one choice and sends its last piece.
    fn push_end(&mut self, choice: usize, mut piece: Piece, end: ChoiceEnd) {
        if let Some(answer) = self.choices.get_mut(choice) {
            answer.end();
            let stall = answer.sequence.unread_time();
            self.record.choice_ended(choice, end, stall);
        }
        piece.finish = self
            .record
            .choice(choice)
            .map(|progress| receipt::finish(&self.record, progress));
        self.last.push_back(Ok(piece));
    }
}

macro_rules! from_piece {
    ($($response:ident),*) => {$(
        impl From<Piece> for pb::$response {
            fn from(piece: Piece) -> Self {
                Self {
                    request_id: piece.request_id,
                    choice_index: piece.choice_index,
                    start_index: piece.start_index,
                    text: piece.text,
                    token_ids: piece.token_ids,
                    logprobs: piece.logprobs,
                    prompt_logprobs: piece.prompt_logprobs,
                    finish: piece.finish,
                }
            }
        }
    )*};
}
from_piece!(GenerateResponse, ChatResponse);

#[cfg(test)]
mod tests;
