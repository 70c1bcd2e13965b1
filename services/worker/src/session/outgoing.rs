//! The way out of a session: a bounded channel that the RPC's response stream reads, and the status it ends with.

use std::pin::Pin;
use std::task::{Context, Poll};

use kr_proto::worker::SessionResponse;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

/// Messages that the transport may lag behind. Small: what waits longer waits in the session, where it is bounded and seen.
const CAPACITY: usize = 16;

/// Returns both ends.
pub(crate) fn channel() -> (Outgoing, SessionStream) {
    let (messages, receiver) = mpsc::channel(CAPACITY);
    let (end, ended) = oneshot::channel();
    let stream = SessionStream {
        messages: receiver,
        end: Some(ended),
    };
    (Outgoing { messages, end }, stream)
}

/// The session's end. Dropping it ends the stream with OK.
#[derive(Debug)]
pub(crate) struct Outgoing {
    messages: mpsc::Sender<SessionResponse>,
    end: oneshot::Sender<Status>,
}

impl Outgoing {
    /// Waits until a message can be sent without waiting.
    ///
    /// # Errors
    /// The router is gone.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, SessionResponse>, mpsc::error::SendError<()>> {
        self.messages.reserve().await
    }

    /// Completes when the router is gone.
    pub(crate) async fn closed(&self) {
        self.messages.closed().await;
    }

    /// Ends the stream with `status`, after the messages sent so far.
    pub(crate) fn fail(self, status: Status) {
        // A router that has left needs no status.
        let _ = self.end.send(status);
    }
}

/// The response stream of the Session RPC.
#[derive(Debug)]
pub(crate) struct SessionStream {
    messages: mpsc::Receiver<SessionResponse>,
    end: Option<oneshot::Receiver<Status>>,
}

impl Stream for SessionStream {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = std::task::ready!(self.messages.poll_recv(context)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let status = self.end.take().and_then(|mut end| end.try_recv().ok());
        Poll::Ready(status.map(Err))
    }
}
