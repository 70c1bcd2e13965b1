//! One file: fetched, continued where it broke off, checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::HeaderMap;

use super::client::Client;
use super::error::Error;
use super::listing::{Checksum, Entry};

/// Attempts in a row that bring nothing before it is given up.
const MAX_IDLE_ATTEMPTS: u32 = 4;
/// The wait before the second such attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const BUFFER_BYTES: usize = 1 << 17;

/// Where files go.
pub(super) struct Destination<'a> {
    pub(super) commit: &'a str,
    /// The folder in which the commit's files gather.
    pub(super) partial: &'a Path,
    /// Counts the bytes of all files.
    pub(super) bar: &'a ProgressBar,
}

/// One file on its way.
struct Fetch<'a> {
    client: &'a Client,
    entry: &'a Entry,
    destination: &'a Destination<'a>,
    /// The file's path while it is incomplete.
    part: &'a Path,
    /// Bytes of the files before this one.
    base: u64,
}

/// How an attempt ended.
enum Attempt {
    Complete,
    /// Broken off; another attempt may go on.
    Broken(io::Error),
}

/// Fetches `entry`, as far as it is not there, and returns its path.
///
/// # Errors
/// The hub refuses, several attempts in a row bring nothing, the checksum is another, or the disk fails.
pub(super) fn file(client: &Client, entry: &Entry, destination: &Destination<'_>) -> Result<PathBuf, Error> {
    let (complete, part) = paths(destination.partial, entry);
    destination.bar.set_message(entry.name.clone());
    let base = destination.bar.position();
    if !complete.exists() {
        let fetch = Fetch {
            client,
            entry,
            destination,
            part: &part,
            base,
        };
        fetch.all()?;
        check(entry, &part)?;
        fs::rename(&part, &complete).map_err(Error::file(&complete))?;
    }
    destination.bar.set_position(base + entry.size);
    Ok(complete)
}

/// Returns how much of a file is there already.
pub(super) fn bytes_here(partial: &Path, entry: &Entry) -> u64 {
    let (complete, part) = paths(partial, entry);
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    length(&complete).or_else(|_| length(&part)).unwrap_or(0)
}

/// Names of the file when it is complete and until then.
fn paths(partial: &Path, entry: &Entry) -> (PathBuf, PathBuf) {
    (partial.join(&entry.name), partial.join(format!(".{}.part", entry.name)))
}

impl Fetch<'_> {
    /// Makes attempts until all bytes are there.
    fn all(&self) -> Result<(), Error> {
        let mut idle = 0;
        let mut most = bytes_here(self.destination.partial, self.entry);
        loop {
            let Attempt::Broken(source) = self.attempt()? else {
                return Ok(());
            };
            let done = bytes_here(self.destination.partial, self.entry);
            idle = if done > most { 0 } else { idle + 1 };
            most = most.max(done);
            if idle == MAX_IDLE_ATTEMPTS {
                let (file, size) = (self.entry.name.clone(), self.entry.size);
                return Err(Error::Stopped {
                    file,
                    done,
                    size,
                    source,
                });
            }
            pause(FIRST_PAUSE * 2_u32.pow(idle));
        }
    }

    fn attempt(&self) -> Result<Attempt, Error> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(self.part);
        let mut file = file.map_err(Error::file(self.part))?;
        let mut done = file.metadata().map_err(Error::file(self.part))?.len();
        if done > self.entry.size {
            done = self.start_again(&file)?;
        }
        if done == self.entry.size {
            return Ok(Attempt::Complete);
        }
        let url = self.client.url(self.destination.commit, self.entry);
        let response = match self.client.get(&url, done) {
            Ok(response) => response,
            Err(error) => return Ok(Attempt::Broken(error.into_io())),
        };
        match response.status().as_u16() {
            200 => done = self.start_again(&file)?,
            206 if starts_at(response.headers(), done) => {}
            206 | 416 => {
                self.start_again(&file)?;
                return Ok(Attempt::Broken(io::Error::other("the server cannot continue the file")));
            }
            status @ (429 | 500..=599) => return Ok(Attempt::Broken(io::Error::other(format!("status {status}")))),
            status => return Err(self.client.refusal(url, status, response.headers())),
        }
        file.seek(SeekFrom::Start(done)).map_err(Error::file(self.part))?;
        self.copy(
            response.into_body().into_reader().take(self.entry.size - done),
            &mut file,
            done,
        )
    }

    /// Forgets what is there, because it cannot be the beginning of what comes.
    fn start_again(&self, file: &File) -> Result<u64, Error> {
        file.set_len(0).map_err(Error::file(self.part))?;
        Ok(0)
    }

    /// Writes what comes to the file, which holds `done` bytes.
    fn copy(&self, mut body: impl Read, file: &mut File, mut done: u64) -> Result<Attempt, Error> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.destination.bar.set_position(self.base + done);
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Ok(Attempt::Broken(error)),
            };
            file.write_all(buffer.get(..read).unwrap_or_default())
                .map_err(Error::file(self.part))?;
            done += read as u64;
        }
        file.sync_all().map_err(Error::file(self.part))?;
        Ok(if done == self.entry.size {
            Attempt::Complete
        } else {
            Attempt::Broken(io::ErrorKind::UnexpectedEof.into())
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread is its own, not the runtime's")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Whether a partial answer begins where it was asked to.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get("content-range").and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Compares the file with its checksum; another one is deleted.
fn check(entry: &Entry, part: &Path) -> Result<(), Error> {
    let mut file = File::open(part).map_err(Error::file(part))?;
    let actual = match &entry.checksum {
        Checksum::Sha256(_) => digest(Sha256::new(), &mut file).map(Checksum::Sha256),
        Checksum::GitBlob(_) => {
            let length = file.metadata().map_err(Error::file(part))?.len();
            let header = format!("blob {length}\0");
            digest(Sha1::new().chain_update(header), &mut file).map(Checksum::GitBlob)
        }
    };
    let actual = actual.map_err(Error::file(part))?;
    if actual == entry.checksum {
        return Ok(());
    }
    fs::remove_file(part).map_err(Error::file(part))?;
    Err(Error::Checksum {
        file: entry.name.clone(),
        actual: actual.to_string(),
        expected: entry.checksum.to_string(),
    })
}

fn digest<D: Digest>(mut hasher: D, file: &mut File) -> io::Result<String> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
