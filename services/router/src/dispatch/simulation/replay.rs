//! A trace of bursts and heavy tails replayed against batches of fixed sizes and the measured one, as JSON.

use std::time::Duration;

use super::trace::{Traffic, arrivals};
use super::worker::{Pace, Work};
use super::{Fate, Simulation};
use crate::adaptive::Bounds;

/// What a replay measured.
#[derive(Debug, Clone, Copy)]
struct Row {
    tokens_per_second: f64,
    first_token_p50: Duration,
    first_token_p95: Duration,
    token_time_mean: Duration,
    token_time_p95: Duration,
}

const PLACES: u32 = 50;

/// A worker whose step takes a fixed time and a little for each sequence, and from a number on much for each.
fn pace(knee: u32) -> Pace {
    let micros = move |work: Work| {
        let beyond = work.sequences.saturating_sub(knee);
        8000 + 100 * work.sequences + 900 * beyond + 20 * work.prefill_tokens
    };
    Pace {
        places: PLACES,
        step_tokens: 512,
        time: Box::new(move |work| Duration::from_micros(micros(work).into())),
    }
}

fn replay(knee: u32, bounds: Bounds) -> Row {
    let traffic = Traffic {
        seed: 2026,
        requests: 1000,
        rate: 40.0,
        burst: 12.0,
        answer_tokens: 16.0,
        prompt_tokens: 24.0,
    };
    let mut simulation = Simulation::new(vec![pace(knee)], arrivals(&traffic), |setup| setup.batch = bounds);
    simulation.run();
    assert_eq!(simulation.count(Fate::Finished), traffic.requests);
    let tokens: u32 = simulation.seen.iter().map(|seen| seen.tokens).sum();
    let end = simulation.seen.iter().filter_map(|seen| seen.last_token).max().unwrap();
    let first = simulation.first_token_times();
    let seen = simulation.seen.iter().filter(|seen| seen.tokens > 1);
    let mut each: Vec<_> = seen
        .filter_map(|seen| Some((seen.last_token? - seen.first_token?) / (seen.tokens - 1)))
        .collect();
    each.sort_unstable();
    Row {
        tokens_per_second: f64::from(tokens) / end.as_secs_f64(),
        first_token_p50: first[first.len() / 2],
        first_token_p95: first[first.len() * 95 / 100],
        token_time_mean: each.iter().sum::<Duration>() / u32::try_from(each.len()).unwrap(),
        token_time_p95: each[each.len() * 95 / 100],
    }
}

fn print(knee: u32, batch: &str, row: Row) {
    let row = serde_json::json!({
        "knee": knee,
        "batch": batch,
        "tokens_per_second": row.tokens_per_second.round(),
        "first_token_ms": {"p50": row.first_token_p50.as_millis(), "p95": row.first_token_p95.as_millis()},
        "token_ms": {
            "mean": (row.token_time_mean.as_secs_f64() * 10_000.0).round() / 10.0,
            "p95": (row.token_time_p95.as_secs_f64() * 10_000.0).round() / 10.0,
        },
    });
    println!("{row}");
}

#[test]
fn the_measured_size_is_about_as_good_as_the_best_fixed_one_on_every_worker() {
    for knee in [12, 50] {
        let fixed = [5, 10, 20, 35, 50].map(|size| {
            let bounds = Bounds {
                least: size,
                most: size,
                token_time: None,
            };
            let row = replay(knee, bounds);
            print(knee, &size.to_string(), row);
            row
        });
        let measured = replay(knee, Bounds::default());
        print(knee, "measured", measured);
        let most = fixed.iter().map(|row| row.tokens_per_second).fold(0.0, f64::max);
        assert!(measured.tokens_per_second > 0.95 * most, "{measured:?}");
        let largest = fixed[4];
        assert!(measured.token_time_mean <= largest.token_time_mean, "{measured:?}");
    }
}
