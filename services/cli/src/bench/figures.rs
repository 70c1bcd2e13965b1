//! From samples to the JSON object that scripts read.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::{Outcome, Sample};

/// Summarises a run; `worker_messages` is how many passed between router and workers during it.
pub(super) fn summarise(outcome: &Outcome, worker_messages: Option<f64>) -> Value {
    let prompt: usize = outcome.samples.iter().map(|sample| sample.prompt_ids.len()).sum();
    let generated: usize = outcome.samples.iter().map(|sample| sample.token_ids.len()).sum();
    let seconds = outcome.duration.as_secs_f64().max(f64::EPSILON);
    let rate = |tokens: usize| round(as_float(tokens) / seconds);
    let all: Vec<&Sample> = outcome.samples.iter().collect();
    json!({
        "requests": outcome.requests,
        "errors": outcome.errors,
        "duration_s": round(seconds),
        "prompt_tokens": prompt,
        "generated_tokens": generated,
        "total_tokens_per_s": rate(prompt + generated),
        "decode_tokens_per_s": rate(generated),
        "ttft_ms": milliseconds(&all, |sample| Some(sample.time_to_first_token)),
        "tpot_ms": milliseconds(&all, |sample| sample.time_per_output_token),
        "e2e_ms": milliseconds(&all, |sample| Some(sample.end_to_end)),
        "cached_tokens": outcome.samples.iter().map(|sample| u64::from(sample.cached_tokens)).sum::<u64>(),
        "preemptions": outcome.samples.iter().map(|sample| u64::from(sample.preemptions)).sum::<u64>(),
        "turns": turns(outcome),
        "worker_messages_per_token": worker_messages.filter(|_| generated > 0).map(|count| round(count / as_float(generated))),
    })
}

/// Figures of each turn of the conversations, or null where nobody had a second one.
fn turns(outcome: &Outcome) -> Value {
    let last = outcome.samples.iter().map(|sample| sample.turn).max().unwrap_or(0);
    if last == 0 {
        return Value::Null;
    }
    let of_turn = |turn: usize| {
        let samples: Vec<&Sample> = outcome.samples.iter().filter(|sample| sample.turn == turn).collect();
        json!({
            "prompt_tokens": samples.iter().map(|sample| sample.prompt_ids.len()).sum::<usize>(),
            "cached_tokens": samples.iter().map(|sample| u64::from(sample.cached_tokens)).sum::<u64>(),
            "ttft_ms": milliseconds(&samples, |sample| Some(sample.time_to_first_token)),
        })
    };
    (0..=last).map(of_turn).collect()
}

fn milliseconds(samples: &[&Sample], of: fn(&Sample) -> Option<Duration>) -> Value {
    let times = samples.iter().filter_map(|sample| of(sample));
    percentiles(times.map(|time| time.as_secs_f64() * 1e3).collect())
}

/// Nearest-rank percentiles, or null without samples.
fn percentiles(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().map(round)
    };
    json!({ "p50": at(50), "p95": at(95), "p99": at(99) })
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values = (1..=100).map(f64::from).rev().collect();
        assert_eq!(percentiles(values), json!({"p50": 50.0, "p95": 95.0, "p99": 99.0}));
        assert_eq!(percentiles(vec![7.0]), json!({"p50": 7.0, "p95": 7.0, "p99": 7.0}));
        assert_eq!(percentiles(Vec::new()), json!({"p50": null, "p95": null, "p99": null}));
    }

    #[test]
    fn rates_are_over_the_whole_run() {
        let sample = Sample {
            prompt_ids: vec![7; 10],
            token_ids: vec![8; 30],
            cached_tokens: 4,
            preemptions: 1,
            ..Sample::default()
        };
        let outcome = Outcome {
            requests: 3,
            errors: 1,
            first_error: Some("x".into()),
            duration: Duration::from_secs(2),
            samples: vec![sample.clone(), sample],
        };
        let figures = summarise(&outcome, Some(6.0));
        assert_eq!(figures["total_tokens_per_s"], 40.0);
        assert_eq!(figures["decode_tokens_per_s"], 30.0);
        assert_eq!(figures["worker_messages_per_token"], 0.1);
        assert_eq!(figures["errors"], 1);
        assert_eq!(
            (&figures["cached_tokens"], &figures["preemptions"]),
            (&json!(8), &json!(2))
        );
        assert_eq!(figures["turns"], Value::Null);
    }

    #[test]
    fn turns_are_told_apart() {
        let sample = |turn, milliseconds| Sample {
            turn,
            time_to_first_token: Duration::from_millis(milliseconds),
            ..Sample::default()
        };
        let outcome = Outcome {
            requests: 3,
            errors: 0,
            first_error: None,
            duration: Duration::from_secs(1),
            samples: vec![sample(0, 50), sample(1, 9), sample(0, 50)],
        };
        let turns = &summarise(&outcome, None)["turns"];
        assert_eq!(turns[0]["ttft_ms"]["p50"], 50.0);
        assert_eq!(turns[1]["ttft_ms"]["p50"], 9.0);
        assert_eq!(turns.as_array().unwrap().len(), 2);
    }
}
