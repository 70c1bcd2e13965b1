//! A response body that lets something see its trailers and live as long as it does.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// What is tied to a response.
pub(super) trait Tail: Send + Unpin + 'static {
    /// Sees the trailers, which a body has once or (when its reader leaves) never.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
}

impl Tail for tokio::sync::OwnedSemaphorePermit {}

/// Ties `tail` to a response: it is dropped with the body.
pub(super) fn with_tail(response: Response, tail: impl Tail) -> Response {
    response.map(|inner| Body::new(Tailed { inner, tail }))
}

struct Tailed<T> {
    inner: Body,
    tail: T,
}

impl<T: Tail> HttpBody for Tailed<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.tail.trailers(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
