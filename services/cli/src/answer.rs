//! Streamed answers: pieces in, text out as it comes, figures and a JSON record at the end.

mod json;
mod turns;

use std::io::Write;
use std::time::{Duration, Instant};

use kr_proto::serve::{ChatResponse, Finish, FinishReason, GenerateResponse, TokenLogprobs, Usage};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::error::Error;
use crate::terminal;
pub(crate) use turns::Turns;

/// What `Generate` and `Chat` stream alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    pub(crate) request_id: String,
    pub(crate) choice_index: u32,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    pub(crate) finish: Option<Finish>,
}

macro_rules! into_piece {
    ($($response:ident),*) => {$(
        impl From<$response> for Piece {
            fn from(response: $response) -> Self {
                Self {
                    request_id: response.request_id,
                    choice_index: response.choice_index,
                    text: response.text,
                    token_ids: response.token_ids,
                    logprobs: response.logprobs,
                    prompt_logprobs: response.prompt_logprobs,
                    finish: response.finish,
                }
            }
        }
    )*};
}
into_piece!(GenerateResponse, ChatResponse);

/// Something of one choice, while it streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News<'a> {
    Text(&'a str),
    /// Nothing more of it comes.
    End,
}

/// One answer with the times its tokens came at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// `None` where the stream broke before it.
    pub(crate) finish: Option<Finish>,
    /// From the call to the first token.
    pub(crate) time_to_first_token: Duration,
    /// From the call to the last token.
    pub(crate) time_to_last_token: Duration,
}

/// All answers to one request.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) request_id: String,
    /// By choice.
    pub(crate) choices: Vec<Answer>,
    /// Of the prompt's tokens but the first, if they were asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    /// What the whole request took.
    pub(crate) usage: Option<Usage>,
}

impl Answers {
    /// Collects a stream that was called at `started`; `on_news` sees each piece of text as it comes, with its choice. What came
    /// before an error is returned with it.
    pub(crate) async fn collect<S, P>(
        mut stream: S,
        started: Instant,
        mut on_news: impl FnMut(u32, News<'_>) -> std::io::Result<()>,
    ) -> (Self, Result<(), Error>)
    where
        S: Stream<Item = Result<P, Status>> + Unpin,
        P: Into<Piece>,
    {
        let mut answers = Self::default();
        while let Some(piece) = stream.next().await {
            let piece: Piece = match piece {
                Ok(piece) => piece.into(),
                Err(status) => return (answers, Err(status.into())),
            };
            let choice = piece.choice_index;
            if let Err(error) = show(&piece, &mut on_news) {
                return (answers, Err(error.into()));
            }
            if !answers.add(piece, started.elapsed()) {
                let message = format!("the server sent choice {choice}, which nobody asked for");
                return (answers, Err(Error::Input(message)));
            }
        }
        let finished = !answers.choices.is_empty() && answers.choices.iter().all(|answer| answer.finish.is_some());
        let result = if finished { Ok(()) } else { Err(Error::Unfinished) };
        (answers, result)
    }

    /// Adds a piece that came `after` the call; returns whether that can be.
    fn add(&mut self, piece: Piece, after: Duration) -> bool {
        let index = piece.choice_index as usize;
        if index >= MOST_CHOICES {
            return false;
        }
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Answer::default);
        }
        self.request_id = piece.request_id;
        self.prompt_logprobs.extend(piece.prompt_logprobs);
        let Some(answer) = self.choices.get_mut(index) else {
            return false;
        };
        if !piece.token_ids.is_empty() {
            if answer.token_ids.is_empty() {
                answer.time_to_first_token = after;
            }
            answer.time_to_last_token = after;
        }
        answer.text.push_str(&piece.text);
        answer.token_ids.extend(piece.token_ids);
        answer.logprobs.extend(piece.logprobs);
        if let Some(finish) = piece.finish {
            self.usage = finish.request_usage.or(finish.usage);
            answer.finish = Some(finish);
        }
        true
    }

    /// Returns the closing line of figures.
    pub(crate) fn figures(&self) -> String {
        match self.choices.as_slice() {
            [only] => only.figures(),
            choices => {
                let figures = choices.iter().enumerate();
                let lines = figures.map(|(index, answer)| format!("{}: {}", index + 1, answer.figures()));
                lines.collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// More than any server is asked for: a broken one must not make this process hold memory for millions.
const MOST_CHOICES: usize = 4096;

fn show(piece: &Piece, on_news: &mut impl FnMut(u32, News<'_>) -> std::io::Result<()>) -> std::io::Result<()> {
    if !piece.text.is_empty() {
        on_news(piece.choice_index, News::Text(&piece.text))?;
    }
    match piece.finish {
        Some(_) => on_news(piece.choice_index, News::End),
        None => Ok(()),
    }
}

impl Answer {
    /// Collects the stream of a request for one answer; as [`Answers::collect`].
    ///
    /// # Errors
    /// The stream's status, or [`Error::Unfinished`].
    pub(crate) async fn collect<S, P>(
        stream: S,
        started: Instant,
        mut on_text: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<Self, Error>
    where
        S: Stream<Item = Result<P, Status>> + Unpin,
        P: Into<Piece>,
    {
        let on_news = |_: u32, news: News<'_>| match news {
            News::Text(text) => on_text(text),
            News::End => Ok(()),
        };
        let (answers, result) = Answers::collect(stream, started, on_news).await;
        result?;
        answers.choices.into_iter().next().ok_or(Error::Unfinished)
    }

    /// Returns generated tokens per second after the first, or `None` for fewer than two.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        let decode = self.time_to_last_token.saturating_sub(self.time_to_first_token);
        let intervals = u32::try_from(self.token_ids.len().checked_sub(1)?).ok()?;
        (intervals > 0 && !decode.is_zero()).then(|| f64::from(intervals) / decode.as_secs_f64())
    }

    /// Returns the closing line of figures.
    pub(crate) fn figures(&self) -> String {
        let speed = self
            .tokens_per_second()
            .map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
        let cached = self.finish.as_ref().and_then(|finish| finish.usage);
        let cached = match cached.map_or(0, |usage| usage.cached_tokens) {
            0 => String::new(),
            cached => format!(", {cached} of the prompt cached"),
        };
        format!(
            "{} tokens, first after {}{speed}{cached}, finish: {}",
            self.token_ids.len(),
            terminal::duration(self.time_to_first_token),
            self.finish_reason()
        )
    }

    fn finish_reason(&self) -> &'static str {
        let reason = self.finish.as_ref().map(|finish| FinishReason::try_from(finish.reason));
        match reason {
            Some(Ok(FinishReason::Stop)) => "stop",
            Some(Ok(FinishReason::Length)) => "length",
            Some(Ok(FinishReason::Cancelled)) => "cancelled",
            Some(Ok(FinishReason::Error)) => "error",
            Some(Ok(FinishReason::Unspecified) | Err(_)) | None => "unknown",
        }
    }
}

/// Writes text to standard output at once, so that tokens show as they come.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests;
