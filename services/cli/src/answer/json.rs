//! Answers as JSON, for scripts. Times are in seconds.

use std::time::Duration;

use kr_proto::serve::{Exactness, Receipt, TokenLogprobs, Usage};
use serde_json::{Map, Value, json};

use super::{Answer, Answers};

impl Answers {
    /// Returns one JSON object: of one answer its own fields, of several `choices` with the fields of each. `error` says what the
    /// request failed with, if it did.
    pub(crate) fn to_json(&self, error: Option<&str>) -> Value {
        let mut object = Map::new();
        object.insert("request_id".into(), self.request_id.as_str().into());
        match self.choices.as_slice() {
            [only] => object.extend(only.fields()),
            choices => {
                let choices = choices.iter().zip(0_u32..).map(|(answer, index)| {
                    let index = std::iter::once(("choice_index".to_owned(), Value::from(index)));
                    Value::Object(index.chain(answer.fields()).collect())
                });
                object.insert("choices".into(), choices.collect());
                object.insert("usage".into(), usage(self.usage));
            }
        }
        if !self.prompt_logprobs.is_empty() {
            let scores = self.prompt_logprobs.iter().map(logprobs);
            object.insert("prompt_logprobs".into(), scores.collect());
        }
        if let Some(error) = error {
            object.insert("error".into(), error.into());
        }
        Value::Object(object)
    }
}

impl Answer {
    fn fields(&self) -> Map<String, Value> {
        let finish = self.finish.clone().unwrap_or_default();
        let fields = json!({
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": self.logprobs.iter().map(logprobs).collect::<Vec<_>>(),
            "finish_reason": self.finish_reason(),
            "usage": usage(finish.usage),
            "client": {
                "time_to_first_token": self.time_to_first_token.as_secs_f64(),
                "total_time": self.time_to_last_token.as_secs_f64(),
                "tokens_per_s": self.tokens_per_second(),
            },
            "receipt": receipt(&finish.receipt.unwrap_or_default()),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

fn usage(usage: Option<Usage>) -> Value {
    let usage = usage.unwrap_or_default();
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
    })
}

fn receipt(receipt: &Receipt) -> Value {
    json!({
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
    })
}

fn logprobs(logprobs: &TokenLogprobs) -> Value {
    let top = logprobs.top.iter();
    json!({
        "token_id": logprobs.token_id,
        "logprob": logprobs.logprob,
        "text": logprobs.text,
        "top": top.map(|top| json!({"token_id": top.token_id, "logprob": top.logprob, "text": top.text})).collect::<Vec<_>>(),
    })
}

fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    let duration: Duration = duration?.try_into().ok()?;
    Some(duration.as_secs_f64())
}

fn exactness_name(exactness: i32) -> &'static str {
    match Exactness::try_from(exactness) {
        Ok(Exactness::Invariant) => "invariant",
        Ok(Exactness::Close) => "close",
        Ok(Exactness::Unspecified) | Err(_) => "unknown",
    }
}
