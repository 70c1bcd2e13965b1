//! Whether a worker delivers. Each frame announces how long the next step will take, and the worker's hello how fast it was when
//! it warmed up; silence far beyond that, with work in flight, means that the worker is stuck, however alive its process looks.
//! Pure: time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Frame, Speed};
use kr_contract::SequenceId;

/// How much silence is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchdogLimits {
    /// Never less than this.
    pub(crate) floor: Duration,
    /// Times the announced duration of the next step.
    pub(crate) factor: u32,
    /// For the first step of a session with a worker that measured nothing,
    pub(crate) first_step: Duration,
    /// and for each prompt token in it: as slow as the slowest worker one may use.
    pub(crate) first_token: Duration,
}

impl Default for WatchdogLimits {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(3),
            factor: 10,
            first_step: Duration::from_secs(30),
            first_token: Duration::from_millis(250),
        }
    }
}

/// However long a step the worker announces, an hour without a word is too much.
const LONGEST: Duration = Duration::from_secs(3600);

/// Watches one session.
#[derive(Debug)]
pub(super) struct Watchdog {
    limits: WatchdogLimits,
    max_step_tokens: u32,
    /// By the worker's hello.
    speed: Option<Speed>,
    /// By sequence, the prompt tokens that no announcement covers yet: those of sequences the worker has not accepted. It may
    /// have read them in the meantime, and compute them in its next step.
    in_flight: HashMap<SequenceId, u32>,
    /// Last sign of life, or the moment work came in.
    since: Instant,
    announced: Duration,
    /// Longest time one input token took in a step; unset before the first step.
    token_time: Option<Duration>,
}

impl Watchdog {
    /// Begins to watch a worker whose steps take `max_step_tokens` at most and which said that it has this `speed`.
    pub(super) fn new(limits: WatchdogLimits, (max_step_tokens, speed): (u32, Option<Speed>), now: Instant) -> Self {
        Self {
            limits,
            max_step_tokens,
            speed,
            in_flight: HashMap::new(),
            since: now,
            announced: Duration::ZERO,
            token_time: None,
        }
    }

    pub(super) fn admitted(&mut self, id: SequenceId, prompt_tokens: usize, now: Instant) {
        if self.in_flight.is_empty() {
            self.since = now;
        }
        self.in_flight
            .insert(id, u32::try_from(prompt_tokens).unwrap_or(u32::MAX));
    }

    pub(super) fn rejected(&mut self, id: SequenceId, now: Instant) {
        self.since = now;
        self.in_flight.remove(&id);
    }

    pub(super) fn frame(&mut self, frame: &Frame, now: Instant) {
        self.since = now;
        self.announced = frame.next_expected.unwrap_or_default();
        if let Some(step) = frame.step {
            let token_time = step.duration / step.tokens.max(1);
            self.token_time = Some(self.token_time.map_or(token_time, |longest| longest.max(token_time)));
        }
        for id in &frame.accepted {
            if let Some(tokens) = self.in_flight.get_mut(id) {
                *tokens = 0;
            }
        }
        for id in frame.ended() {
            self.in_flight.remove(&id);
        }
    }

    /// Returns when silence becomes a wedge; `None` while nothing is owed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.in_flight.is_empty() {
            return None;
        }
        let times = |duration: Duration| duration.saturating_mul(self.limits.factor);
        let (announced, token_time) = match (self.token_time, self.speed) {
            (Some(measured), _) => (times(self.announced), measured),
            // The machine may be busier now than when the worker warmed up.
            (None, Some(speed)) => (
                times(speed.batch_decode_step.max(self.announced)),
                times(speed.prefill_token),
            ),
            (None, None) => (self.limits.first_step, self.limits.first_token),
        };
        let prefill = token_time.saturating_mul(self.unannounced_tokens().min(self.max_step_tokens));
        let patience = announced.max(self.limits.floor).saturating_add(prefill);
        self.since.checked_add(patience.min(LONGEST))
    }

    fn unannounced_tokens(&self) -> u32 {
        self.in_flight
            .values()
            .fold(0, |sum, tokens| sum.saturating_add(*tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{End, Step, Update};
    use super::*;
    use crate::sequence::Tokens;

    const ID: SequenceId = SequenceId(1);

    fn frame(next_expected_ms: u64, ends: bool) -> Frame {
        Frame {
            step: Some(Step {
                sequences: 1,
                tokens: 1,
                duration: Duration::from_millis(10),
            }),
            next_expected: Some(Duration::from_millis(next_expected_ms)),
            accepted: vec![ID],
            updates: vec![Update {
                id: ID,
                prompt_logprobs: Vec::new(),
                tokens: Tokens::default(),
                end: ends.then(|| End::Failed { message: String::new() }),
            }],
            ..Frame::default()
        }
    }

    fn watchdog(now: Instant) -> Watchdog {
        Watchdog::new(WatchdogLimits::default(), (512, None), now)
    }

    #[test]
    fn silence_is_too_long_after_ten_announced_steps_and_three_seconds_at_least() {
        let start = Instant::now();
        let mut watchdog = watchdog(start);
        watchdog.admitted(ID, 4, start);
        watchdog.frame(&frame(20, false), start);
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(3)));
        watchdog.frame(&frame(2000, false), start);
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(20)));
    }

    #[test]
    fn an_absurd_announcement_is_not_believed() {
        let start = Instant::now();
        let mut watchdog = watchdog(start);
        watchdog.admitted(ID, 4, start);
        watchdog.frame(&frame(u64::MAX, false), start);
        assert_eq!(watchdog.deadline(), Some(start + LONGEST));
    }

    #[test]
    fn an_idle_worker_may_be_silent() {
        let start = Instant::now();
        let mut watchdog = watchdog(start);
        assert_eq!(watchdog.deadline(), None);
        watchdog.admitted(ID, 4, start);
        watchdog.frame(&frame(20, true), start);
        assert_eq!(watchdog.deadline(), None);
        watchdog.admitted(ID, 4, start);
        watchdog.rejected(ID, start);
        assert_eq!(watchdog.deadline(), None);
    }

    #[test]
    fn the_first_step_and_prefill_nobody_announced_get_more_time() {
        let start = Instant::now();
        let mut watchdog = watchdog(start);
        watchdog.admitted(ID, 4, start);
        let limits = WatchdogLimits::default();
        assert_eq!(
            watchdog.deadline(),
            Some(start + limits.first_step + limits.first_token * 4)
        );
        watchdog.frame(&frame(20, false), start);
        watchdog.admitted(SequenceId(2), 100_000, start);
        let prefill = Duration::from_millis(10) * 512;
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(3) + prefill));
    }

    #[test]
    fn a_measured_speed_replaces_the_guess_until_a_step_was_seen() {
        let start = Instant::now();
        let speed = Speed {
            prefill_token: Duration::from_millis(2),
            batch_decode_step: Duration::from_millis(400),
        };
        let mut watchdog = Watchdog::new(WatchdogLimits::default(), (512, Some(speed)), start);
        watchdog.admitted(ID, 100, start);
        let patience = Duration::from_secs(4) + Duration::from_millis(20) * 100;
        assert_eq!(watchdog.deadline(), Some(start + patience));
        let accepted = Frame {
            step: None,
            ..frame(900, false)
        };
        watchdog.frame(&accepted, start);
        assert_eq!(
            watchdog.deadline(),
            Some(start + Duration::from_secs(9)),
            "the first step was announced"
        );
        watchdog.frame(&frame(20, false), start);
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(3)));
    }

    #[test]
    fn a_frame_sent_before_the_worker_read_an_admit_does_not_announce_it() {
        let start = Instant::now();
        let mut watchdog = watchdog(start);
        watchdog.admitted(ID, 4, start);
        watchdog.admitted(SequenceId(2), 100, start);
        watchdog.frame(&frame(20, false), start);
        let prefill = Duration::from_millis(10) * 100;
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(3) + prefill));
        let accepted = Frame {
            accepted: vec![SequenceId(2)],
            ..frame(20, false)
        };
        watchdog.frame(&accepted, start);
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(3)));
    }

    #[test]
    fn time_counts_from_when_work_came_in() {
        let start = Instant::now();
        let later = start + Duration::from_secs(100);
        let mut watchdog = watchdog(start);
        watchdog.frame(&frame(20, true), start);
        watchdog.admitted(ID, 0, later);
        watchdog.admitted(SequenceId(2), 0, later + Duration::from_secs(1));
        assert_eq!(watchdog.deadline(), Some(later + Duration::from_secs(3)));
    }
}
