//! The one clock of the scheduling side: monotonic, and tokio's, so that a test can pause it.

use std::time::Instant;

/// Returns the present moment.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until `moment`, or forever where there is none.
pub(crate) async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
