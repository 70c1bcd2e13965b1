//! The layer that bounds how long a request's message may take to arrive. Without it a client that sends headers and then
//! nothing would hold its place for as long as it likes.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use kr_contract::RequestId;
use tokio::time::Sleep;

use crate::call::Call;
use crate::error::Error;
use crate::sequence::Failed;
use crate::status;

/// Time for the whole of a message.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The one service whose clients keep sending for as long as they like.
const STREAMING: &str = "/grpc.reflection.";

pub(super) async fn limit_arrival(request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(STREAMING) {
        return next.run(request).await;
    }
    let request_id = request.extensions().get::<Call>().map(|call| call.request_id);
    let limited = request.map(|inner| {
        Body::new(Arriving {
            inner,
            until: Box::pin(tokio::time::sleep(TIMEOUT)),
            request_id: request_id.unwrap_or(RequestId(0)),
        })
    });
    next.run(limited).await
}

struct Arriving {
    inner: Body,
    until: Pin<Box<Sleep>>,
    request_id: RequestId,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending() && self.until.as_mut().poll(cx).is_ready() {
            let error = Error::from(Failed::DeadlineExceeded);
            let status = status::status(&error, self.request_id);
            // Whoever reads the message finds the status among the causes.
            return Poll::Ready(Some(Err(axum::Error::new(status))));
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
