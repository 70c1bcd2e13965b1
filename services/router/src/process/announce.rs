//! The address file: says, for scripts and tests, where this process serves, once it can answer for every model.

use std::io;
use std::path::{Path, PathBuf};

use super::ports::Addresses;
use crate::dispatch::ModelState;
use crate::health::Readiness;

/// Waits until every model has a ready worker and then writes the addresses to `path`.
pub(super) async fn when_ready(path: Option<PathBuf>, addresses: Addresses, mut readiness: Readiness) {
    let all_ready = readiness
        .models
        .wait_for(|models| models.iter().all(|model| model.state == ModelState::Ready));
    if all_ready.await.is_err() {
        return;
    }
    tracing::info!(grpc = %addresses.grpc, http = %addresses.http, "every model is ready");
    if let Some(path) = path
        && let Err(error) = write(&path, addresses)
    {
        tracing::error!(path = %path.display(), %error, "address file not written");
    }
}

/// Writes beside the file and renames, so that a reader sees all of it or nothing.
fn write(path: &Path, addresses: Addresses) -> io::Result<()> {
    let text = serde_json::to_string(&addresses)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    std::fs::write(&beside, text + "\n")?;
    std::fs::rename(&beside, path)
}

/// Removes the file: nobody serves there any more.
pub(super) fn withdraw(path: Option<&Path>) {
    if let Some(path) = path {
        let _ = std::fs::remove_file(path);
    }
}
