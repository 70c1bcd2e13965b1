//! From rounds to the lines that are printed.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Engine;
use super::load::{LONG_TOKENS, SHORT_TOKENS};

/// What one engine did in one round.
#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) runs: Vec<Run>,
    /// Milliseconds to the first token of a prompt of [`SHORT_TOKENS`], and of one of [`LONG_TOKENS`]; medians.
    pub(super) short_ms: f64,
    pub(super) long_ms: f64,
    /// Of all processes but a client's.
    pub(super) peak_rss_mb: f64,
    pub(super) pss_mb: Option<f64>,
    /// Texts that continue the questions.
    pub(super) answers: Vec<String>,
}

/// Some prompts, answered at once.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) concurrency: u32,
    /// All generated tokens over the whole run, prefill included.
    pub(super) tokens_per_s: f64,
    /// Token ids of each answer.
    pub(super) answers: Vec<Vec<u64>>,
}

/// Median and range of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Middle {
    median: f64,
    least: f64,
    most: f64,
}

impl Middle {
    /// # Errors
    /// When there is no value.
    fn of(values: impl Iterator<Item = f64>) -> Result<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = values.first().zip(values.last()).context("nothing was measured")?;
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Ok(Self {
            median,
            least: *first,
            most: *last,
        })
    }
}

/// One line of the result: an engine at a concurrency, over all rounds.
#[derive(Debug)]
pub(super) struct Row {
    engine: Engine,
    concurrency: u32,
    tokens_per_s: Middle,
    short_ms: Middle,
    long_ms: Middle,
    peak_rss_mb: Middle,
    pss_mb: Option<f64>,
}

impl Row {
    /// # Errors
    /// When a round lacks this concurrency.
    pub(super) fn of(engine: Engine, concurrency: u32, rounds: &[Measurement]) -> Result<Self> {
        let run = |round: &Measurement| {
            let run = round.runs.iter().find(|run| run.concurrency == concurrency);
            run.map_or(f64::NAN, |run| run.tokens_per_s)
        };
        let over = |of: fn(&Measurement) -> f64| Middle::of(rounds.iter().map(of));
        let pss = Middle::of(rounds.iter().filter_map(|round| round.pss_mb)).ok();
        Ok(Self {
            engine,
            concurrency,
            tokens_per_s: Middle::of(rounds.iter().map(run).filter(|rate| rate.is_finite()))?,
            short_ms: over(|round| round.short_ms)?,
            long_ms: over(|round| round.long_ms)?,
            peak_rss_mb: over(|round| round.peak_rss_mb)?,
            pss_mb: pss.map(|pss| pss.median),
        })
    }

    /// Prompt tokens of a lone prompt over the time to its first token.
    fn prefill(tokens: u32, milliseconds: Middle) -> f64 {
        f64::from(tokens) * 1e3 / milliseconds.median
    }

    /// The line for scripts. `spread` is the range of `tokens_per_s` over the rounds, as a part of the median.
    pub(super) fn json(&self) -> Value {
        let rate = self.tokens_per_s;
        json!({
            "engine": self.engine.name(),
            "concurrency": self.concurrency,
            "tokens_per_s": round(rate.median),
            "prefill_tokens_per_s": round(Self::prefill(LONG_TOKENS, self.long_ms)),
            "ttft_ms": round(self.short_ms.median),
            "peak_rss_mb": round(self.peak_rss_mb.median),
            "weights": self.engine.weights(),
            "spread": round((rate.most - rate.least) / rate.median),
        })
    }
}

/// Two Markdown tables: throughput by concurrency, then what does not depend on it.
pub(super) fn table(rows: &[Row]) -> String {
    let mut concurrencies: Vec<u32> = rows.iter().map(|row| row.concurrency).collect();
    concurrencies.sort_unstable();
    concurrencies.dedup();
    let mut engines: Vec<Engine> = rows.iter().map(|row| row.engine).collect();
    engines.dedup();
    let mut text = String::from("| engine | weights |");
    for concurrency in &concurrencies {
        text.push_str(&format!(" {concurrency} |"));
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(concurrencies.len()));
    for engine in &engines {
        let _ = write!(text, "\n| {} | {} |", engine.name(), engine.weights());
        for concurrency in &concurrencies {
            let found = rows
                .iter()
                .find(|row| row.engine == *engine && row.concurrency == *concurrency);
            let cell = found.map_or(String::new(), |row| {
                let rate = row.tokens_per_s;
                format!("{:.1} ({:.1}–{:.1})", rate.median, rate.least, rate.most)
            });
            let _ = write!(text, " {cell} |");
        }
    }
    let _ = write!(
        text,
        "\n\n| engine | weights | prefill {SHORT_TOKENS}, tokens/s | prefill {LONG_TOKENS}, tokens/s | TTFT {SHORT_TOKENS}, ms | \
         peak RSS, MB | PSS, MB |\n|---|---|---|---|---|---|---|\n"
    );
    for engine in &engines {
        let Some(row) = rows.iter().find(|row| row.engine == *engine) else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.1} ({:.1}–{:.1}) | {:.0} | {} |",
            engine.name(),
            engine.weights(),
            Row::prefill(SHORT_TOKENS, row.short_ms),
            Row::prefill(LONG_TOKENS, row.long_ms),
            row.short_ms.median,
            row.short_ms.least,
            row.short_ms.most,
            row.peak_rss_mb.median,
            row.pss_mb.map_or("–".to_owned(), |pss| format!("{pss:.0}")),
        );
    }
    text
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(rate: f64) -> Measurement {
        let run = Run {
            concurrency: 8,
            tokens_per_s: rate,
            answers: Vec::new(),
        };
        Measurement {
            runs: vec![run],
            short_ms: 100.0,
            long_ms: 1024.0,
            peak_rss_mb: 700.0,
            pss_mb: Some(600.0),
            answers: Vec::new(),
        }
    }

    #[test]
    fn a_line_has_the_median_and_the_spread_of_the_rounds() {
        let rounds = [measurement(90.0), measurement(120.0), measurement(100.0)];
        let row = Row::of(Engine::KrFloat32, 8, &rounds).unwrap();
        let expected = json!({
            "engine": "kr-float32", "concurrency": 8, "tokens_per_s": 100.0, "prefill_tokens_per_s": 500.0,
            "ttft_ms": 100.0, "peak_rss_mb": 700.0, "weights": "float32", "spread": 0.3,
        });
        assert_eq!(row.json(), expected);
        let table = table(&[row]);
        assert!(
            table.contains("| kr-float32 | float32 | 100.0 (90.0–120.0) |"),
            "{table}"
        );
        assert!(
            table.contains("| 1280 | 500 | 100.0 (100.0–100.0) | 700 | 600 |"),
            "{table}"
        );
    }

    #[test]
    fn a_concurrency_that_was_not_measured_is_an_error() {
        assert!(Row::of(Engine::MlxLm, 16, &[measurement(90.0)]).is_err());
        assert!(Row::of(Engine::MlxLm, 8, &[]).is_err());
    }

    #[test]
    fn of_an_even_number_the_median_lies_between_the_two_in_the_middle() {
        assert_eq!(Middle::of([1.0, 4.0, 2.0, 9.0].into_iter()).unwrap().median, 3.0);
    }
}
