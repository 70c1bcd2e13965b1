//! Calls to the hub: the listing through hf-hub, files through an agent of our own with a limit on every wait.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use kr_boot::Secret;
use ureq::config::RedirectAuthHeaders;
use ureq::http::HeaderMap;

use super::error::Error;
use super::fetch::{self, Destination};
use super::listing::{Entry, Listing};
use super::{Order, Repository};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A file of the hub may be redirected to its store, once or twice.
const MAX_REDIRECTS: u32 = 8;

/// One model on one hub.
pub(super) struct Client {
    api: Api,
    agent: ureq::Agent,
    endpoint: String,
    repository: Repository,
    token: Option<Secret>,
}

impl Client {
    /// # Errors
    /// The endpoint is no address.
    pub(super) fn new(order: &Order) -> Result<Self, Error> {
        let endpoint = order.endpoint.trim_end_matches('/').to_owned();
        let address = || Error::Address {
            endpoint: endpoint.clone(),
        };
        if !["https://", "http://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(address());
        }
        let api = ApiBuilder::from_cache(Cache::new(PathBuf::new()))
            .with_endpoint(endpoint.clone())
            .with_token(order.token.as_ref().map(|token| token.expose().to_owned()))
            .with_user_agent("kr", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|_| address())?;
        let agent = ureq::Agent::config_builder()
            .user_agent(concat!("kr/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .build();
        Ok(Self {
            api,
            agent: agent.into(),
            endpoint,
            repository: order.repository.clone(),
            token: order.token.clone(),
        })
    }

    /// Asks what the revision consists of.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that is no listing.
    pub(super) fn list(&self) -> Result<Listing, Error> {
        let request = self
            .at(self.repository.revision())
            .info_request()
            .query("blobs", "true");
        let request = request
            .config()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(LISTING_TIMEOUT))
            .build();
        let mut response = request.call().map_err(|source| self.unreachable(source))?;
        let url = format!("{}/api/models/{}", self.endpoint, self.repository);
        if response.status() != 200 {
            return Err(self.refusal(url, response.status().as_u16(), response.headers()));
        }
        let json = response
            .body_mut()
            .read_to_string()
            .map_err(|source| self.unreachable(source))?;
        Listing::parse(&json).map_err(|source| Error::Json { url, source })
    }

    /// Fetches one file, or what is missing of it, and returns where it lies; a complete one is left as it is.
    ///
    /// # Errors
    /// As [`fetch::file`].
    pub(super) fn fetch(&self, entry: &Entry, destination: &Destination<'_>) -> Result<PathBuf, Error> {
        fetch::file(self, entry, destination)
    }

    /// Asks for a file from byte `start` on.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.expose().trim()));
        }
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        request.call()
    }

    /// Returns the address of a file at one commit, so that all files belong together.
    pub(super) fn url(&self, commit: &str, entry: &Entry) -> String {
        self.at(commit).url(&entry.name)
    }

    fn at(&self, revision: &str) -> hf_hub::api::sync::ApiRepo {
        let repo = Repo::with_revision(self.repository.id(), RepoType::Model, revision.to_owned());
        self.api.repo(repo)
    }

    fn unreachable(&self, source: ureq::Error) -> Error {
        Error::Unreachable {
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    /// Says what a status means; the hub adds a word of its own to most of them.
    pub(super) fn refusal(&self, url: String, status: u16, headers: &HeaderMap) -> Error {
        let (endpoint, repository) = (self.endpoint.clone(), self.repository.id());
        let word = headers.get("x-error-code").and_then(|word| word.to_str().ok());
        match (word, status) {
            (Some("GatedRepo"), _) => Error::Gated { endpoint, repository },
            (Some("RevisionNotFound"), _) => Error::NoRevision {
                repository,
                revision: self.repository.revision().to_owned(),
            },
            (Some("RepoNotFound"), _) | (None, 404) => Error::NoModel { endpoint, repository },
            (_, 401 | 403) => Error::Denied {
                endpoint,
                repository,
                what: if self.token.is_some() {
                    "this token"
                } else {
                    "callers without a token"
                },
                status,
            },
            _ => Error::Status { url, status },
        }
    }
}
