//! One streamed answer: pieces in, text out as it comes, figures and a JSON record at the end.

use std::io::Write;
use std::time::{Duration, Instant};

use kr_proto::serve::{ChatResponse, Exactness, Finish, FinishReason, GenerateResponse, TokenLogprobs};
use serde_json::{Value, json};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::error::Error;
use crate::terminal;

/// What `Generate` and `Chat` stream alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    pub(crate) request_id: String,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) finish: Option<Finish>,
}

impl From<GenerateResponse> for Piece {
    fn from(response: GenerateResponse) -> Self {
        let GenerateResponse {
            request_id,
            text,
            token_ids,
            logprobs,
            finish,
            ..
        } = response;
        Self {
            request_id,
            text,
            token_ids,
            logprobs,
            finish,
        }
    }
}

impl From<ChatResponse> for Piece {
    fn from(response: ChatResponse) -> Self {
        let ChatResponse {
            request_id,
            text,
            token_ids,
            logprobs,
            finish,
            ..
        } = response;
        Self {
            request_id,
            text,
            token_ids,
            logprobs,
            finish,
        }
    }
}

/// A whole answer with the times its tokens came at.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) finish: Finish,
    /// From the call to the first token.
    pub(crate) time_to_first_token: Duration,
    /// From the call to the last token.
    pub(crate) time_to_last_token: Duration,
}

impl Answer {
    /// Collects a stream that was called at `started`; `on_text` sees each piece of text as it comes.
    ///
    /// # Errors
    /// The stream's status, or [`Error::Unfinished`].
    pub(crate) async fn collect<S, P>(
        mut stream: S,
        started: Instant,
        mut on_text: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<Self, Error>
    where
        S: Stream<Item = Result<P, Status>> + Unpin,
        P: Into<Piece>,
    {
        let mut whole = Piece::default();
        let mut first = None;
        let mut last = Duration::ZERO;
        while let Some(piece) = stream.next().await {
            let piece: Piece = piece?.into();
            if !piece.token_ids.is_empty() {
                last = started.elapsed();
                first.get_or_insert(last);
            }
            if !piece.text.is_empty() {
                on_text(&piece.text)?;
            }
            whole.request_id = piece.request_id;
            whole.text.push_str(&piece.text);
            whole.token_ids.extend(piece.token_ids);
            whole.logprobs.extend(piece.logprobs);
            whole.finish = piece.finish.or(whole.finish);
        }
        Ok(Self {
            request_id: whole.request_id,
            text: whole.text,
            token_ids: whole.token_ids,
            logprobs: whole.logprobs,
            finish: whole.finish.ok_or(Error::Unfinished)?,
            time_to_first_token: first.unwrap_or(last),
            time_to_last_token: last,
        })
    }

    /// Returns generated tokens per second after the first, or `None` for fewer than two.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        let decode = (self.time_to_last_token - self.time_to_first_token).as_secs_f64();
        let intervals = u32::try_from(self.token_ids.len().checked_sub(1)?).ok()?;
        (intervals > 0 && decode > 0.0).then(|| f64::from(intervals) / decode)
    }

    /// Returns the closing line of figures.
    pub(crate) fn figures(&self) -> String {
        let reason = FinishReason::try_from(self.finish.reason).map_or("unknown", reason_name);
        let speed = self
            .tokens_per_second()
            .map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
        format!(
            "{} tokens, first after {}{speed}, finish: {reason}",
            self.token_ids.len(),
            terminal::duration(self.time_to_first_token)
        )
    }

    /// Returns the answer as one JSON object for scripts. Times are in seconds.
    pub(crate) fn to_json(&self) -> Value {
        let usage = self.finish.usage.unwrap_or_default();
        let receipt = self.finish.receipt.clone().unwrap_or_default();
        json!({
            "request_id": self.request_id,
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": self.logprobs.iter().map(logprobs_json).collect::<Vec<_>>(),
            "finish_reason": FinishReason::try_from(self.finish.reason).map_or("unknown", reason_name),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
                "cached_tokens": usage.cached_tokens,
            },
            "client": {
                "time_to_first_token": self.time_to_first_token.as_secs_f64(),
                "total_time": self.time_to_last_token.as_secs_f64(),
                "tokens_per_s": self.tokens_per_second(),
            },
            "receipt": {
                "queue_time": seconds(receipt.queue_time),
                "prefill_time": seconds(receipt.prefill_time),
                "decode_time": seconds(receipt.decode_time),
                "stall_time": seconds(receipt.stall_time),
                "total_time": seconds(receipt.total_time),
                "time_to_first_token": seconds(receipt.time_to_first_token),
                "cached_tokens": receipt.cached_tokens,
                "cache_copy_time": seconds(receipt.cache_copy_time),
                "cache_copy_bytes": receipt.cache_copy_bytes,
                "coalesced": receipt.coalesced,
                "coalesced_tokens": receipt.coalesced_tokens,
                "mean_batch_size": receipt.mean_batch_size,
                "max_batch_size": receipt.max_batch_size,
                "worker": receipt.worker,
                "attempts": receipt.attempts,
                "seed": receipt.seed,
                "exactness": exactness_name(receipt.exactness),
                "replayed": receipt.replayed.map(exactness_name),
                "numerics_fingerprint": receipt.numerics_fingerprint,
                "model_digest": receipt.model_digest,
                "preemptions": receipt.preemptions,
            },
        })
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

fn logprobs_json(logprobs: &TokenLogprobs) -> Value {
    let top = logprobs.top.iter();
    json!({
        "token_id": logprobs.token_id,
        "logprob": logprobs.logprob,
        "top": top.map(|top| json!({"token_id": top.token_id, "logprob": top.logprob, "text": top.text})).collect::<Vec<_>>(),
    })
}

fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    let duration: Duration = duration?.try_into().ok()?;
    Some(duration.as_secs_f64())
}

fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Unspecified => "unknown",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Error => "error",
    }
}

fn exactness_name(exactness: i32) -> &'static str {
    match Exactness::try_from(exactness) {
        Ok(Exactness::Invariant) => "invariant",
        Ok(Exactness::Close) => "close",
        Ok(Exactness::Unspecified) | Err(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kr_proto::serve::Usage;

    fn piece(text: &str, ids: &[u32], finish: Option<Finish>) -> Result<GenerateResponse, Status> {
        Ok(GenerateResponse {
            text: text.into(),
            token_ids: ids.to_vec(),
            finish,
            ..GenerateResponse::default()
        })
    }

    fn finish() -> Finish {
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 3,
            total_tokens: 6,
            cached_tokens: 0,
        };
        Finish {
            reason: FinishReason::Stop.into(),
            usage: Some(usage),
            receipt: None,
        }
    }

    #[tokio::test]
    async fn pieces_become_one_answer_and_show_as_they_come() {
        let pieces = [
            piece("He", &[1], None),
            piece("", &[2], None),
            piece("llo", &[3], Some(finish())),
        ];
        let mut seen = Vec::new();
        let stream = tokio_stream::iter(pieces);
        let show = |text: &str| {
            seen.push(text.to_owned());
            Ok(())
        };
        let answer = Answer::collect(stream, Instant::now(), show).await.unwrap();
        assert_eq!(seen, ["He", "llo"]);
        assert_eq!(
            (answer.text.as_str(), answer.token_ids.as_slice()),
            ("Hello", [1, 2, 3].as_slice())
        );
        assert_eq!(answer.to_json()["finish_reason"], "stop");
        assert_eq!(answer.to_json()["usage"]["total_tokens"], 6);
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_an_error() {
        let stream = tokio_stream::iter([piece("He", &[1], None)]);
        let result = Answer::collect(stream, Instant::now(), |_| Ok(())).await;
        assert!(matches!(result, Err(Error::Unfinished)));
    }
}
