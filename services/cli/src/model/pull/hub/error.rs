//! Why a model of the hub did not arrive.

use std::path::{Path, PathBuf};

/// Why a model of the hub did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No answer at all.
    #[error("cannot reach the hub at {endpoint}; check the network, or name a mirror with --endpoint")]
    Unreachable {
        endpoint: String,
        #[source]
        source: ureq::Error,
    },
    /// The hub hides private models from those who may not see them, so both read the same.
    #[error(
        "the hub at {endpoint} has no model {repository}, or only for others; check the name, and HF_TOKEN if it is private"
    )]
    NoModel { endpoint: String, repository: String },
    /// The model has no such branch, tag or commit.
    #[error("{repository} has no revision {revision}; name a branch, tag or commit of it after the @")]
    NoRevision { repository: String, revision: String },
    /// Its terms were not accepted.
    #[error(
        "{repository} is gated: accept its terms at {endpoint}/{repository}, then put a token of that account into HF_TOKEN"
    )]
    Gated { endpoint: String, repository: String },
    /// The hub does not know this user.
    #[error(
        "the hub at {endpoint} refuses {what} (status {status}); put a token that may read {repository} into HF_TOKEN"
    )]
    Denied {
        endpoint: String,
        repository: String,
        what: &'static str,
        status: u16,
    },
    /// Any other answer.
    #[error("{url} answered with status {status}; try again later")]
    Status { url: String, status: u16 },
    /// The hub's answer makes no sense.
    #[error("{url} is not what a hub answers; check --endpoint")]
    Json {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    /// The model cannot be served by us.
    #[error("{repository} has no {missing}, so it cannot be served; {cure}")]
    NotServable {
        repository: String,
        missing: &'static str,
        cure: &'static str,
    },
    /// Names, in a listing or an index, that are none.
    #[error("{repository} is damaged: {problem}")]
    Damaged { repository: String, problem: String },
    /// The connection broke again and again.
    #[error("{file} stopped coming at {done} of {size} bytes; they are kept, run the same command to go on")]
    Stopped {
        file: String,
        done: u64,
        size: u64,
        #[source]
        source: std::io::Error,
    },
    /// Not the bytes that were published.
    #[error("{file} has {actual}, the hub says {expected}; it was deleted, run the same command to fetch it again")]
    Checksum {
        file: String,
        actual: String,
        expected: String,
    },
    /// The disk is too small.
    #[error("{} has {free} free and {needed} are needed; make room, or move the cache with XDG_CACHE_HOME", folder.display())]
    Space {
        folder: PathBuf,
        needed: String,
        free: String,
    },
    /// The name is taken.
    #[error("{} is there already and holds {holds}; remove it, or give this one another name with --as", folder.display())]
    Taken { folder: PathBuf, holds: String },
    /// Another process fetches the same.
    #[error("another kr is fetching this model (it holds {}); wait for it", lock.display())]
    Busy { lock: PathBuf },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The address cannot be used.
    #[error("{endpoint} is not the address of a hub; write it as https://HOST")]
    Address { endpoint: String },
    /// The thread that fetches is gone.
    #[error("fetching ended without a result; this is a fault of kr")]
    Ended {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl Error {
    /// Returns what makes an error of a failed access to `path`.
    pub(super) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
