//! Where the engine thread puts its frames: a bounded channel that it never waits for.

use kr_engine::frame::StepFrame;
use kr_engine::{FrameSink, SinkFull};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Returns a sink for the engine and what the session reads. `overflowed` is cancelled when the session is too slow; the
/// engine has ended it by then.
pub(super) fn channel(capacity: usize) -> (ChannelSink, mpsc::Receiver<StepFrame>, CancellationToken) {
    let (frames, receiver) = mpsc::channel(capacity);
    let overflowed = CancellationToken::new();
    let sink = ChannelSink {
        frames,
        overflowed: overflowed.clone(),
    };
    (sink, receiver, overflowed)
}

pub(super) struct ChannelSink {
    frames: mpsc::Sender<StepFrame>,
    overflowed: CancellationToken,
}

impl FrameSink for ChannelSink {
    fn try_deliver(&mut self, frame: StepFrame) -> Result<(), SinkFull> {
        self.frames.try_send(frame).map_err(|error| {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                self.overflowed.cancel();
            }
            SinkFull
        })
    }
}
