//! Counting what does not reach the collector, and saying so now and then.
//!
//! The SDK bounds its buffers but tells nobody how much it drops. So the bound is kept here, in front of it: what has been
//! accepted and not yet handed to the exporter never exceeds the SDK's buffer.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::semantic::telemetry::{DROPPED, REASON, SIGNAL};

/// Time between two log lines about the same signal.
const QUIET: Duration = Duration::from_secs(60);

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(super) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// The state of one signal's way out.
#[derive(Debug)]
pub(super) struct Delivery {
    signal: Signal,
    capacity: usize,
    waiting: AtomicUsize,
    refused: AtomicU64,
    failed: AtomicU64,
    reported: Mutex<Option<Instant>>,
}

impl Delivery {
    pub(super) fn new(signal: Signal, capacity: usize) -> Self {
        Self {
            signal,
            capacity,
            waiting: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            reported: Mutex::new(None),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns whether one more item may wait; counts it as dropped otherwise.
    pub(super) fn accept(&self) -> bool {
        let room = |waiting: usize| (waiting < self.capacity).then_some(waiting + 1);
        let accepted = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .is_ok();
        if !accepted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    /// Notes that `items` left the buffer for the exporter.
    pub(super) fn taken(&self, items: usize) {
        let fewer = |waiting: usize| Some(waiting.saturating_sub(items));
        let _ = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
    }

    /// Counts `items` as lost if `result` is an error, with a log line at most once a minute.
    pub(super) fn settle<E: Display>(&self, items: usize, result: &Result<(), E>) {
        let Err(error) = result else { return };
        let lost = self.failed.fetch_add(items as u64, Ordering::Relaxed) + items as u64;
        if self.may_report(Instant::now()) {
            let signal = self.signal.as_str();
            tracing::warn!(signal, lost, %error, "telemetry not delivered; serving goes on");
        }
    }

    fn may_report(&self, now: Instant) -> bool {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let due = reported.is_none_or(|last| now.duration_since(last) >= QUIET);
        if due {
            *reported = Some(now);
        }
        due
    }
}

/// Registers the counter of dropped items.
pub(super) fn count_drops(meter: &Meter, deliveries: [Arc<Delivery>; 3]) {
    meter
        .u64_observable_counter(DROPPED)
        .with_unit("{item}")
        .with_description("Spans, log records and metrics that did not reach the collector")
        .with_callback(move |observer| {
            for delivery in &deliveries {
                let signal = KeyValue::new(SIGNAL, delivery.signal.as_str());
                for (reason, count) in [("queue_full", &delivery.refused), ("export_failed", &delivery.failed)] {
                    observer.observe(
                        count.load(Ordering::Relaxed),
                        &[signal.clone(), KeyValue::new(REASON, reason)],
                    );
                }
            }
        })
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_refuses_until_the_exporter_takes_some() {
        let delivery = Delivery::new(Signal::Traces, 2);
        assert!(delivery.accept() && delivery.accept());
        assert!(!delivery.accept());
        delivery.taken(1);
        assert!(delivery.accept());
        assert_eq!(delivery.refused.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn failures_are_reported_once_a_minute() {
        let delivery = Delivery::new(Signal::Logs, 2);
        let start = Instant::now();
        let at = |seconds| delivery.may_report(start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(59), at(60), at(61)],
            [true, false, false, true, false]
        );
    }

    #[test]
    fn only_failed_exports_count_as_lost() {
        let delivery = Delivery::new(Signal::Logs, 2);
        delivery.settle(3, &Ok::<(), String>(()));
        delivery.settle(2, &Err("gone".to_owned()));
        assert_eq!(delivery.failed.load(Ordering::Relaxed), 2);
    }
}
