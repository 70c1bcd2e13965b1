//! Stopping in two stages: *draining* (admit nothing new, finish what runs) and *now* (give up what still runs).
//!
//! Knows when to stop, not what stopping means; the services hold the tokens.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The two stages of stopping. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Returns a shutdown that nothing has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop: the first call starts draining, the second ends it at once. Later ones change nothing.
    pub fn request(&self) {
        if self.draining.is_cancelled() {
            self.now.cancel();
        }
        self.draining.cancel();
    }

    /// Asks to stop at once, draining skipped.
    pub fn request_now(&self) {
        self.draining.cancel();
        self.now.cancel();
    }

    /// Returns the token that is cancelled when draining starts.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Returns the token that is cancelled when running work must be given up; always after [`Self::draining`].
    pub fn now(&self) -> &CancellationToken {
        &self.now
    }

    /// Starts to listen for SIGINT and SIGTERM; each counts as one [`Self::request`].
    ///
    /// # Errors
    /// When the handlers cannot be installed. Must be called within a tokio runtime.
    ///
    /// # Cancellation
    /// Dropping the returned value stops listening, but the default action of the signals does not come back.
    pub fn listen(&self) -> io::Result<SignalListener> {
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        Ok(SignalListener(tokio::spawn(forward(signals, self.clone()))))
    }
}

/// The task that turns signals into shutdown requests; ends when dropped.
#[derive(Debug)]
pub struct SignalListener(JoinHandle<()>);

impl Drop for SignalListener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

async fn forward(mut signals: Signals, shutdown: Shutdown) {
    while !shutdown.now.is_cancelled() {
        let name = tokio::select! {
            Some(()) = signals.interrupt.recv() => "SIGINT",
            Some(()) = signals.terminate.recv() => "SIGTERM",
            else => return,
        };
        shutdown.request();
        let stage = if shutdown.now.is_cancelled() { "now" } else { "draining" };
        tracing::info!(signal = name, stage, "stopping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_drains_and_the_second_stops_now() {
        let shutdown = Shutdown::new();
        let seen_elsewhere = shutdown.clone();
        assert!(!seen_elsewhere.draining().is_cancelled());
        shutdown.request();
        assert!(seen_elsewhere.draining().is_cancelled() && !seen_elsewhere.now().is_cancelled());
        shutdown.request();
        assert!(seen_elsewhere.now().is_cancelled());
    }

    #[test]
    fn stopping_now_drains_too() {
        let shutdown = Shutdown::new();
        shutdown.request_now();
        assert!(shutdown.draining().is_cancelled() && shutdown.now().is_cancelled());
    }
}
