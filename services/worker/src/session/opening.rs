//! From a router's first message to an open session.

use std::time::Duration;

use kr_proto::WORKER_PROTOCOL;
use kr_proto::worker::session_request::Message;
use kr_proto::worker::{Hello, RejectReason, SessionRequest};
use tokio::sync::watch;
use tonic::Streaming;

use super::admission::{FEATURES, Rejection, missing_feature};
use crate::profile::Profile;
use crate::readiness::Readiness;
use crate::status::Error;

/// Waits for the router's Hello.
///
/// # Errors
/// When it does not come, or something else does.
pub(super) async fn hello(requests: &mut Streaming<SessionRequest>, timeout: Duration) -> Result<Hello, Error> {
    let first = tokio::time::timeout(timeout, requests.message())
        .await
        .map_err(|_| Error::HelloLate(timeout))?
        .map_err(|status| Error::Disconnected(status.message().to_owned()))?;
    match first.and_then(|request| request.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        _ => Err(Error::HelloMissing),
    }
}

/// Returns why no session is possible on `hello`'s terms.
pub(super) fn refusal(hello: &Hello) -> Option<Rejection> {
    let (major, minor) = WORKER_PROTOCOL;
    let message = if hello.protocol_major != major {
        format!(
            "the router speaks protocol {}.{}, this worker {major}.{minor}; run both from one release",
            hello.protocol_major, hello.protocol_minor
        )
    } else if let Some(feature) = missing_feature(&hello.required_features) {
        format!(
            "required feature {feature} is unknown here; this worker has {}",
            FEATURES.join(", ")
        )
    } else {
        return None;
    };
    Some(Rejection {
        sequence: None,
        reason: RejectReason::Unsupported,
        message,
    })
}

/// What a worker that is no longer loading says to a session.
pub(super) enum Loaded {
    Ready(std::sync::Arc<Profile>),
    Refused(Rejection),
}

/// Waits until the model is loaded.
///
/// # Errors
/// When it cannot be loaded, or the engine has broken off since.
pub(super) async fn loaded(mut readiness: watch::Receiver<Readiness>) -> Result<Loaded, Error> {
    let readiness = readiness
        .wait_for(|readiness| !matches!(readiness, Readiness::Loading))
        .await
        .map_err(|_| Error::EngineFailed("the worker is ending".into()))?;
    match &*readiness {
        Readiness::Ready(profile) => Ok(Loaded::Ready(profile.clone())),
        Readiness::NotLoaded(reason) => Err(Error::NotLoaded(reason.clone())),
        Readiness::Failed(reason) => Err(Error::EngineFailed(reason.clone())),
        Readiness::Loading | Readiness::Draining | Readiness::Drained => Ok(Loaded::Refused(Rejection {
            sequence: None,
            reason: RejectReason::Draining,
            message: "the worker is draining; use another one".to_owned(),
        })),
    }
}
