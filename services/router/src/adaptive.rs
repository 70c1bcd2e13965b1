//! How many sequences a worker should hold: as many as still add throughput, within bounds, and under a bound on the time of
//! a token where one is set. Pure: it sees steps and says a number.
//!
//! It starts at the upper bound. Steps that hold about as many sequences as allowed are compared with steps that hold about a
//! quarter fewer: if a tenth more sequences bring less than a hundredth more tokens, fewer will do; if they bring more than a
//! fiftieth, more are tried. Nothing is decided within the error of these means. Where the smaller steps were not seen lately
//! the number is lowered for a moment to see some. A turn-about halves the stride, and a change of pace forgets what was
//! measured before it.

mod sizes;

use std::time::Duration;

use crate::workers::Step;
use sizes::{Group, Sizes};

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Fewest sequences; at least 1.
    pub(crate) least: u32,
    /// Most sequences; at least as many.
    pub(crate) most: u32,
    /// Longest time between a sequence's tokens.
    pub(crate) token_time: Option<Duration>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            least: 5,
            most: 50,
            token_time: None,
        }
    }
}

/// Fewer are tried where the share of a further sequence's work that is gained is below this.
const LOW_GAIN: f64 = 0.1;
/// More are tried where it is above this.
const HIGH_GAIN: f64 = 0.2;
/// Steps at the limit between decisions.
const PERIOD: u32 = 8;
/// Steps at the limit without a comparison, after which smaller ones are made.
const PROBE_AFTER: u32 = 48;
/// The same after a comparison that says to stay, while the pace does not change.
const PROBE_AGAIN_AFTER: u32 = 2048;
/// The same after one that said nothing, for noise.
const PROBE_NOISE_AFTER: u32 = 256;
/// Smaller steps that are made at most.
const PROBE: u32 = 64;
/// A pace that differs by this factor is another one.
const OTHER_PACE: f64 = 1.25;
/// Largest stride, as a part of the number.
const STRIDE: f64 = 0.25;

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) why: Why,
}

/// Why the number changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// More sequences add throughput.
    Gain,
    /// The last ones added next to none.
    NoGain,
    /// Tokens took longer than the bound.
    TokenTime,
    /// To see how smaller steps do, or the end of that.
    Probe,
}

impl Why {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::NoGain => "no_gain",
            Self::TokenTime => "token_time",
            Self::Probe => "probe",
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Controller {
    bounds: Bounds,
    /// What holds now.
    limit: u32,
    /// What is being judged; above `limit` during a probe.
    judged: u32,
    sizes: Sizes,
    stride: f64,
    last: Option<Why>,
    /// Steps at the limit since the last decision.
    steps: u32,
    /// Seconds of a step at the limit lately.
    pace: f64,
    /// Steps at the limit until smaller ones are due.
    probe_in: u32,
    /// The pace that the last comparison was made at.
    compared_pace: Option<f64>,
}

impl Controller {
    /// Makes a controller that begins at the upper bound.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let least = bounds.least.max(1);
        let most = bounds.most.max(least);
        Self {
            bounds: Bounds { least, most, ..bounds },
            limit: most,
            judged: most,
            sizes: Sizes::new(most),
            stride: STRIDE,
            last: None,
            steps: 0,
            pace: 0.0,
            probe_in: PROBE_AFTER,
            compared_pace: None,
        }
    }

    /// Returns how many sequences the worker should hold.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes a step in. Returns what it changed, if anything.
    pub(crate) fn observe(&mut self, step: Step) -> Option<Change> {
        let seconds = self.sizes.add(step)?;
        if step.sequences < at_limit(self.limit) {
            return None;
        }
        self.steps = self.steps.saturating_add(1);
        self.probe_in = self.probe_in.saturating_sub(1);
        let weight = (1.0 / f64::from(self.steps)).max(1.0 / f64::from(2 * PERIOD));
        self.pace += weight * (seconds - self.pace);
        if self.steps < PERIOD {
            return None;
        }
        let probing = self.limit < self.judged;
        if !probing && self.compared_pace.is_some_and(|pace| differs(self.pace, pace)) {
            self.compared_pace = None;
            self.probe_in = PROBE_AFTER;
            self.stride = STRIDE;
            self.sizes.forget();
            return None;
        }
        self.decide(probing)
    }

    fn decide(&mut self, probing: bool) -> Option<Change> {
        if let Some(token_time) = self.bounds.token_time
            && self.pace > token_time.as_secs_f64()
        {
            let part = (token_time.as_secs_f64() / self.pace).clamp(1.0 - STRIDE, 1.0);
            let fewer = part_of(self.limit, part);
            return self.change(fewer.min(self.limit - 1), Why::TokenTime);
        }
        let (large, small) = self.groups();
        let decided = gain(&large, &small).filter(|_| self.steps.is_multiple_of(PERIOD));
        if let Some(gain) = decided {
            if gain.mean + gain.error < LOW_GAIN {
                return self.change(self.judged - self.stride_from(self.judged), Why::NoGain);
            }
            if gain.mean - gain.error > HIGH_GAIN {
                let more = (self.judged + self.stride_from(self.judged)).min(self.bounds.most);
                if more > self.judged && self.fits(more, large.seconds(), gain.mean) {
                    return self.change(more, Why::Gain);
                }
                return self.stay(PROBE_AGAIN_AFTER);
            }
            if gain.mean - gain.error > LOW_GAIN && gain.mean + gain.error < HIGH_GAIN {
                return self.stay(PROBE_AGAIN_AFTER);
            }
        }
        if probing {
            // Long enough: what it says may be little.
            return if self.steps >= PROBE {
                self.stay(PROBE_NOISE_AFTER)
            } else {
                None
            };
        }
        self.probe()
    }

    /// Goes back from a probe, if there was one; the next is due after so many steps.
    fn stay(&mut self, probe_after: u32) -> Option<Change> {
        self.probe_in = probe_after;
        let from = self.limit;
        if from == self.judged {
            self.compared_pace = Some(self.pace);
            return None;
        }
        self.limit = self.judged;
        self.steps = 0;
        Some(Change {
            from,
            to: self.limit,
            why: Why::Probe,
        })
    }

    /// Makes smaller steps where none were seen lately.
    fn probe(&mut self) -> Option<Change> {
        let (_, small) = Sizes::ranges(self.judged);
        let from = self.limit;
        if self.bounds.least == self.bounds.most || self.probe_in > 0 {
            return None;
        }
        if from == 1 {
            return self.change(2, Why::Gain);
        }
        self.compared_pace = Some(self.pace);
        self.limit = *small.end();
        self.steps = 0;
        Some(Change {
            from,
            to: self.limit,
            why: Why::Probe,
        })
    }

    fn groups(&self) -> (Group, Group) {
        let (large, small) = Sizes::ranges(self.judged);
        (self.sizes.group(large), self.sizes.group(small))
    }

    fn stride_from(&self, size: u32) -> u32 {
        part_of(size, self.stride).max(1)
    }

    /// Returns whether tokens would still be quick enough with `more` sequences.
    fn fits(&self, more: u32, seconds: f64, gain: f64) -> bool {
        let growth = (f64::from(more) / f64::from(self.judged)).powf(1.0 - gain);
        self.bounds
            .token_time
            .is_none_or(|token_time| seconds * growth <= token_time.as_secs_f64())
    }

    fn change(&mut self, to: u32, why: Why) -> Option<Change> {
        let to = to.clamp(self.bounds.least, self.bounds.most);
        if why != Why::Probe && to != self.judged {
            let turned = matches!(
                (self.last, why),
                (Some(Why::Gain), Why::NoGain) | (Some(Why::NoGain), Why::Gain)
            );
            self.stride = if turned {
                self.stride / 2.0
            } else {
                (self.stride * 1.25).min(STRIDE)
            };
            self.last = Some(why);
            self.compared_pace = None;
            self.probe_in = PROBE_AFTER;
        }
        if to == self.judged && why != Why::TokenTime {
            return self.stay(PROBE_AGAIN_AFTER);
        }
        let from = self.limit;
        self.judged = to;
        self.limit = to;
        self.steps = 0;
        (from != to).then_some(Change { from, to, why })
    }
}

/// Returns the fewest sequences of a step that counts as being at a limit.
fn at_limit(limit: u32) -> u32 {
    *Sizes::ranges(limit).0.start()
}

/// Rounded down.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a part of a number of sequences fits where that does"
)]
fn part_of(size: u32, part: f64) -> u32 {
    (f64::from(size) * part) as u32
}

fn differs(one: f64, other: f64) -> bool {
    one > other * OTHER_PACE || other > one * OTHER_PACE
}

/// How much of a further sequence's work is gained, from 1 (steps take no longer) to 0 (throughput stays) and below.
struct Gain {
    mean: f64,
    /// Standard error.
    error: f64,
}

fn gain(large: &Group, small: &Group) -> Option<Gain> {
    if !(large.is_enough() && small.is_enough()) {
        return None;
    }
    let growth = large.log_size() - small.log_size();
    Some(Gain {
        mean: 1.0 - (large.log_seconds() - small.log_seconds()) / growth,
        error: (large.error().powi(2) + small.error().powi(2)).sqrt() / growth,
    })
}

#[cfg(test)]
mod tests;
