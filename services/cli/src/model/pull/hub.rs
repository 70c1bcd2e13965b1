//! A model of the Hugging Face hub, or of a mirror that speaks its API. The hf-hub crate knows addresses, tokens and listings; the
//! bytes are fetched here, because they must be checked, and continued only where the server agrees to.

mod client;
mod error;
mod fetch;
mod listing;
mod repository;
mod selection;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use kr_boot::{Environment, Secret};
use serde::{Deserialize, Serialize};

use self::client::Client;
pub(crate) use self::error::Error;
use self::fetch::Destination;
use self::listing::Listing;
pub(super) use self::repository::{Repository, model_name};
use crate::terminal;

/// Beside the model's own files: where they came from.
const RECORD: &str = "pull.json";
const BAR: &str = "{msg:32!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";

/// What to fetch, from where and to where.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) repository: Repository,
    /// Address of the hub.
    pub(super) endpoint: String,
    pub(super) token: Option<Secret>,
    /// The model's folder once it is whole.
    pub(super) folder: PathBuf,
}

/// What [`RECORD`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    repository: String,
    /// As it was asked for.
    revision: String,
    /// What that was at the time.
    commit: String,
    endpoint: String,
    files: Vec<listing::Entry>,
}

/// Fetches a model and returns its folder.
///
/// # Errors
/// Any [`Error`]; what was fetched is kept for the next time.
///
/// # Cancellation
/// The thread that fetches ends with the process: what it leaves half-written is what the next time begins with.
pub(super) async fn pull(order: Order) -> Result<PathBuf, Error> {
    let fetching = tokio::task::spawn_blocking(move || fetch_model(&order));
    fetching.await.unwrap_or_else(|source| Err(Error::Ended { source }))
}

fn fetch_model(order: &Order) -> Result<PathBuf, Error> {
    let folder = &order.folder;
    if folder.exists() {
        return already_there(order);
    }
    let client = Client::new(order)?;
    let listing = client.list()?;
    let partial = partial_folder(order, &listing.commit);
    fs::create_dir_all(&partial).map_err(Error::file(&partial))?;
    let _lock = lock(&partial)?;
    if folder.exists() {
        // Another process was faster.
        return already_there(order);
    }

    let silent = indicatif::ProgressBar::hidden();
    let destination = Destination {
        commit: &listing.commit,
        partial: &partial,
        bar: &silent,
    };
    let index = listing.entry(selection::INDEX);
    let index = index.map(|index| client.fetch(index, &destination).and_then(|path| read(&path)));
    let files = selection::choose(&order.repository, &listing, index.transpose()?.as_deref())?;
    check_space(&files, &partial)?;
    terminal::note(&format!(
        "fetching {} at {}: {} files, {}",
        order.repository,
        listing.commit,
        files.len(),
        terminal::bytes(selection::bytes(&files))
    ));
    let destination = Destination {
        bar: &terminal::progress_bar(selection::bytes(&files), BAR),
        ..destination
    };
    for entry in &files {
        client.fetch(entry, &destination)?;
    }
    destination.bar.finish_and_clear();
    publish(order, &listing, files, &partial)?;
    Ok(folder.clone())
}

/// Accepts a folder that an earlier pull of the same model and revision made.
fn already_there(order: &Order) -> Result<PathBuf, Error> {
    let record = fs::read(order.folder.join(RECORD)).ok();
    let record: Option<Record> = record.and_then(|json| serde_json::from_slice(&json).ok());
    let (repository, revision) = (order.repository.id(), order.repository.revision());
    match record {
        Some(record)
            if record.repository == repository && [record.revision.as_str(), &record.commit].contains(&revision) =>
        {
            Ok(order.folder.clone())
        }
        other => Err(Error::Taken {
            folder: order.folder.clone(),
            holds: other.map_or_else(
                || "something else".into(),
                |record| format!("{}@{}", record.repository, record.revision),
            ),
        }),
    }
}

/// Where the files of one commit gather until they are complete: beside the models, on the same disk.
fn partial_folder(order: &Order, commit: &str) -> PathBuf {
    let name = format!("{}@{commit}", order.repository.id().replace('/', "--"));
    kr_boot::cache_folder().join("downloads/hub").join(name)
}

/// The file that a process holds locked while it fetches.
fn lock_path(partial: &Path) -> PathBuf {
    partial.with_added_extension("lock")
}

/// Keeps other processes from fetching the same; released when dropped.
fn lock(partial: &Path) -> Result<File, Error> {
    let path = lock_path(partial);
    let file = File::create(&path).map_err(Error::file(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { lock: path }),
        Err(TryLockError::Error(source)) => Err(Error::File { path, source }),
    }
}

fn check_space(files: &[listing::Entry], partial: &Path) -> Result<(), Error> {
    let here = |entry: &listing::Entry| fetch::bytes_here(partial, entry).min(entry.size);
    let needed: u64 = files.iter().map(|entry| entry.size - here(entry)).sum();
    let disk = rustix::fs::statvfs(partial).map_err(|source| Error::File {
        path: partial.to_owned(),
        source: source.into(),
    })?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    Err(Error::Space {
        folder: partial.to_owned(),
        needed: terminal::bytes(needed),
        free: terminal::bytes(free),
    })
}

/// Makes the complete folder the model's folder, in one step.
fn publish(order: &Order, listing: &Listing, files: Vec<listing::Entry>, partial: &Path) -> Result<(), Error> {
    let record = Record {
        repository: order.repository.id(),
        revision: order.repository.revision().to_owned(),
        commit: listing.commit.clone(),
        endpoint: order.endpoint.clone(),
        files,
    };
    let path = partial.join(RECORD);
    let json = serde_json::to_vec_pretty(&record).map_err(|source| Error::Json {
        url: RECORD.into(),
        source,
    })?;
    fs::write(&path, json).map_err(Error::file(&path))?;
    if let Some(models) = order.folder.parent() {
        fs::create_dir_all(models).map_err(Error::file(models))?;
    }
    fs::rename(partial, &order.folder).map_err(Error::file(&order.folder))?;
    let _ = fs::remove_file(lock_path(partial));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file(path))
}

/// Returns the token to show the hub: the environment's, that of the named file, or the one the hub's own tools left.
///
/// # Errors
/// The named file cannot be read.
pub(super) fn token(file: Option<&Path>) -> Result<Option<Secret>, Error> {
    let environment = Environment::of_process();
    if let Some(token) = environment.get("HF_TOKEN") {
        return Ok(Some(Secret::from(token.trim().to_owned())));
    }
    if let Some(path) = file {
        return Secret::read(path).map(Some).map_err(Error::file(path));
    }
    let home = environment.get("HF_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(environment.get("HOME")?).join(".cache/huggingface")));
    let left = home.and_then(|home| Secret::read(&home.join("token")).ok());
    Ok(left.filter(|token| !token.expose().trim().is_empty()))
}
