//! A running `kr-router`, started for one purpose and stopped with it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::memory::{self, Memory};
use crate::process;

const POLL: Duration = Duration::from_millis(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const SHOWN_LOG_LINES: usize = 20;

/// How to start a service.
pub(crate) struct ServiceOptions<'a> {
    pub(crate) router: &'a Path,
    /// Arguments beside the addresses, which are free ports of loopback.
    pub(crate) arguments: &'a [OsString],
    /// Environment variables beside those it inherits.
    pub(crate) variables: &'a [(&'a str, String)],
    /// Where its log and address file go.
    pub(crate) folder: &'a Path,
    /// How long it may take until it serves.
    pub(crate) start_limit: Duration,
}

/// A router with its workers. Dropping it kills the router, and with it the workers.
pub(crate) struct Service {
    child: Child,
    log: PathBuf,
    addresses: Addresses,
}

/// Where a router listens, each `host:port`.
#[derive(Default)]
struct Addresses {
    grpc: String,
    http: String,
}

impl Service {
    /// Starts a router and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, ends early or takes too long; the error carries the end of its log.
    pub(crate) fn start(options: &ServiceOptions<'_>) -> Result<Self> {
        let (address_file, log) = (options.folder.join("address.json"), options.folder.join("router.log"));
        if address_file.exists() {
            fs::remove_file(&address_file).with_context(|| format!("cannot remove {}", address_file.display()))?;
        }
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(options.router);
        command
            .args(options.arguments)
            .envs(options.variables.iter().map(|(name, value)| (name, value)))
            .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--address-file"]);
        command
            .arg(&address_file)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", options.router.display()))?;
        let mut service = Self {
            child,
            log,
            addresses: Addresses::default(),
        };
        service.addresses = service.wait_for_addresses(&address_file, options.start_limit)?;
        Ok(service)
    }

    /// The address of the gRPC listener, `host:port`.
    pub(crate) fn grpc(&self) -> &str {
        &self.addresses.grpc
    }

    /// The address of the HTTP listener, `host:port`.
    pub(crate) fn http(&self) -> &str {
        &self.addresses.http
    }

    /// Returns the memory of the router and its workers.
    ///
    /// # Errors
    /// When a process cannot be looked at.
    pub(crate) fn memory(&self) -> Result<Memory> {
        memory::of_family(self.child.id())
    }

    /// Asks the router to stop as an operator would, with SIGTERM.
    ///
    /// # Errors
    /// When it does not end in time or not with status 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        process::run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.ended(status)),
                None if Instant::now() > deadline => {
                    bail!("kr-router did not stop within {STOP_LIMIT:?}\n{}", self.log_end())
                }
                None => pause(),
            }
        }
    }

    fn wait_for_addresses(&mut self, file: &Path, limit: Duration) -> Result<Addresses> {
        let deadline = Instant::now() + limit;
        loop {
            // The file may be seen half written: whatever does not parse yet is looked at again.
            let text = fs::read_to_string(file).unwrap_or_default();
            let addresses: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let (Some(grpc), Some(http)) = (addresses["grpc"].as_str(), addresses["http"].as_str()) {
                return Ok(Addresses {
                    grpc: grpc.to_owned(),
                    http: http.to_owned(),
                });
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(status));
            }
            if Instant::now() > deadline {
                bail!("kr-router does not serve after {limit:?}\n{}", self.log_end());
            }
            pause();
        }
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        anyhow::anyhow!(
            "kr-router ended with {status}; the end of {}:\n{}",
            self.log.display(),
            self.log_end()
        )
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already is the usual case, and fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime here: another process can only be polled"
)]
fn pause() {
    std::thread::sleep(POLL);
}
