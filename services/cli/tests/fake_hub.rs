//! A hub where each name but `nothing` is the same model. It speaks as much of the Hugging Face hub's API as pulling needs, and fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const TOKEN: &str = "hf_only_for_this_test";
/// Large enough that it does not leave in one piece.
pub(crate) const WEIGHTS_BYTES: usize = 3_000_000;

/// A hub on two ports of its own, one for the API and one for its store; ends with the runtime.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    state: Arc<Shared>,
}

struct Shared {
    /// Where large files are redirected to: another host, as browsers see it.
    store: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Bytes>,
    requests: Vec<Seen>,
    faults: Faults,
}

/// What goes wrong.
#[derive(Default, Clone)]
pub(crate) struct Faults {
    /// For each coming download from the store, after how many bytes the connection breaks.
    pub(crate) cuts: VecDeque<usize>,
    /// Every download from the store breaks before its first byte.
    pub(crate) always_cut: bool,
    /// The store sends other bytes than were published.
    pub(crate) corrupt: bool,
    /// The store sends whole files whatever is asked for.
    pub(crate) ignores_ranges: bool,
    /// Status and the hub's word for every file.
    pub(crate) files_refused: Option<(StatusCode, &'static str)>,
    /// The listing claims this size for the weights.
    pub(crate) claimed_size: Option<u64>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

impl FakeHub {
    /// A hub with `org/model` in one weight file.
    pub(crate) async fn start() -> Self {
        let hub = Self::empty().await;
        for name in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "README.md",
        ] {
            hub.put(name, format!("{{\"{name}\": true}}"));
        }
        hub.put("model.safetensors", weights(1));
        hub
    }

    async fn empty() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(Shared {
            store: format!("http://localhost:{}", store.local_addr().unwrap().port()),
            inner: Mutex::default(),
        });
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let api = Router::new()
            .route("/api/models/{organisation}/{name}/revision/{revision}", get(list))
            .route("/{organisation}/{name}/resolve/{revision}/{file}", get(resolve))
            .with_state(state.clone());
        let files = Router::new().route("/{file}", get(download)).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, api).await });
        tokio::spawn(async move { axum::serve(store, files).await });
        Self { endpoint, state }
    }

    pub(crate) fn put(&self, name: &str, content: impl Into<Bytes>) {
        self.state.lock().files.insert(name.into(), content.into());
    }

    pub(crate) fn remove(&self, name: &str) {
        self.state.lock().files.remove(name);
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Returns the requests for `file` so far.
    pub(crate) fn requests(&self, file: &str) -> Vec<Seen> {
        let requests = self.state.lock().requests.clone();
        requests
            .into_iter()
            .filter(|request| request.path.ends_with(file))
            .collect()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn see(&self, path: &str, headers: &HeaderMap) -> Inner {
        let text = |name| {
            headers
                .get(name)
                .map(|value: &header::HeaderValue| value.to_str().unwrap().to_owned())
        };
        let mut inner = self.lock();
        inner.requests.push(Seen {
            path: path.into(),
            range: text(header::RANGE),
            authorization: text(header::AUTHORIZATION),
        });
        Inner {
            files: inner.files.clone(),
            requests: Vec::new(),
            faults: inner.faults.clone(),
        }
    }
}

/// Bytes that repeat nowhere nearby.
pub(crate) fn weights(seed: usize) -> Vec<u8> {
    (0..WEIGHTS_BYTES)
        .map(|index| u8::try_from(index * (seed + 30) % 251).unwrap())
        .collect()
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_id(content: &[u8]) -> String {
    let header = format!("blob {}\0", content.len());
    hex(Sha1::new().chain_update(header).chain_update(content).finalize())
}

fn refuse(status: StatusCode, word: &str) -> Response<Body> {
    let response = Response::builder().status(status).header("x-error-code", word);
    response.body(Body::from("refused")).unwrap()
}

async fn list(
    State(hub): State<Arc<Shared>>,
    Path((_, name, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let inner = hub.see("listing", &headers);
    if name == "nothing" {
        return refuse(StatusCode::UNAUTHORIZED, "RepoNotFound");
    }
    if !["main", "v1", COMMIT].contains(&revision.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "RevisionNotFound");
    }
    let siblings = inner.files.iter().map(|(name, content)| {
        let mut file = serde_json::json!({"rfilename": name, "size": content.len(), "blobId": git_id(content)});
        if name.ends_with(".safetensors") {
            let size = inner.faults.claimed_size.unwrap_or(content.len() as u64);
            file["lfs"] = serde_json::json!({"sha256": hex(Sha256::digest(content)), "size": size, "pointerSize": 134});
        }
        file
    });
    let listing = serde_json::json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()});
    Response::new(Body::from(listing.to_string()))
}

async fn resolve(
    State(hub): State<Arc<Shared>>,
    Path((_, _, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let inner = hub.see(&format!("hub/{file}"), &headers);
    if let Some((status, word)) = inner.faults.files_refused {
        return refuse(status, word);
    }
    match inner.files.get(&file) {
        Some(_) if revision == COMMIT && file.ends_with(".safetensors") => Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, format!("{}/{file}", hub.store))
            .body(Body::empty())
            .unwrap(),
        Some(content) if revision == COMMIT => Response::new(Body::from(content.clone())),
        _ => refuse(StatusCode::NOT_FOUND, "EntryNotFound"),
    }
}

async fn download(State(hub): State<Arc<Shared>>, Path(file): Path<String>, headers: HeaderMap) -> Response<Body> {
    let inner = hub.see(&format!("store/{file}"), &headers);
    let whole = inner.files[&file].clone();
    let asked = headers.get(header::RANGE).filter(|_| !inner.faults.ignores_ranges);
    let start = asked.map_or(0, |range| {
        let start = range
            .to_str()
            .unwrap()
            .strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-');
        start.unwrap().parse::<usize>().unwrap()
    });
    let mut content = whole.slice(start..).to_vec();
    if inner.faults.corrupt {
        content[0] ^= 1;
    }
    let mut response = Response::builder().header(header::CONTENT_LENGTH, content.len());
    if asked.is_some() {
        let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, range);
    }
    let cut = match inner.faults.always_cut {
        true => Some(0),
        false => hub.lock().faults.cuts.pop_front(),
    };
    if let Some(cut) = cut {
        content.truncate(cut);
    }
    response
        .body(Body::from_stream(pieces(content, cut.is_some())))
        .unwrap()
}

/// A body in pieces, with a connection that breaks at the end if `breaks`.
fn pieces(content: Vec<u8>, breaks: bool) -> impl tokio_stream::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let mut pieces: Vec<_> = content
        .chunks(1 << 16)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    if breaks {
        pieces.push(Err(std::io::ErrorKind::ConnectionReset.into()));
    }
    tokio_stream::iter(pieces)
}
