//! Arrivals made from a seed: bursts, and lengths with a heavy tail.

use std::time::Duration;

use super::Arrival;

/// A sequence of numbers that its seed decides (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1].
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `count`.
    pub(super) fn below(&mut self, count: u32) -> u32 {
        (self.uniform() * f64::from(count)) as u32 % count
    }

    /// Exponential with this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }

    /// Pareto: at least `least`, and the smaller `shape`, the longer the tail.
    pub(super) fn pareto(&mut self, least: f64, shape: f64) -> f64 {
        least / self.uniform().powf(1.0 / shape)
    }
}

/// What a trace looks like.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    pub(super) seed: u64,
    pub(super) requests: usize,
    /// Mean requests per second.
    pub(super) rate: f64,
    /// Mean requests that come at once.
    pub(super) burst: f64,
    /// Least tokens of an answer; the tail goes to sixteen times as many.
    pub(super) answer_tokens: f64,
    pub(super) prompt_tokens: f64,
}

/// Makes the arrivals of a trace, in order.
pub(super) fn arrivals(traffic: &Traffic) -> Vec<Arrival> {
    let mut dice = Dice(traffic.seed);
    let mut at = 0.0;
    let mut left_of_burst = 0.0;
    let mut arrivals = Vec::with_capacity(traffic.requests);
    while arrivals.len() < traffic.requests {
        if left_of_burst < 1.0 {
            at += dice.exponential(traffic.burst / traffic.rate);
            left_of_burst = dice.exponential(traffic.burst).ceil().max(1.0);
        }
        left_of_burst -= 1.0;
        let tokens = |value: f64, least: f64| value.clamp(1.0, least * 16.0) as u32;
        let answer_tokens = tokens(dice.pareto(traffic.answer_tokens, 1.5), traffic.answer_tokens);
        let prompt_tokens = tokens(dice.pareto(traffic.prompt_tokens, 1.2), traffic.prompt_tokens);
        arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            prompt: (0..prompt_tokens).collect(),
            max_tokens: (traffic.answer_tokens * 16.0) as u32,
            answer_tokens,
            ..Arrival::default()
        });
    }
    arrivals
}
