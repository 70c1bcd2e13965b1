//! A local worker's process. Its standard input is the lifeline: the router holds the other end, so when the router dies,
//! however it dies, the worker reads the end of the file and leaves.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Error, LocalWorker, LossCause};

const PROGRAM: &str = "kr-worker";
/// Standard input, seen from the worker.
const LIFELINE_FD: &str = "0";
/// For the rest of its standard error after it ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
const LAST_LINE_BYTES: usize = 512;

impl LocalWorker {
    /// Returns the worker's executable: the configured one, or `kr-worker` beside this process's own.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] or [`Error::NoProgram`]: a configuration to correct before anything starts.
    pub(crate) fn find_program(configured: Option<&Path>) -> Result<PathBuf, Error> {
        if let Some(program) = configured {
            let program = program.to_path_buf();
            return if program.is_file() {
                Ok(program)
            } else {
                Err(Error::ProgramMissing { program })
            };
        }
        let own = std::env::current_exe().map_err(Error::OwnExecutable)?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_path_buf();
        let program = beside.join(PROGRAM);
        if program.is_file() {
            Ok(program)
        } else {
            Err(Error::NoProgram { beside })
        }
    }
}

/// A started worker. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    _lifeline: Option<ChildStdin>,
    last_line: Arc<Mutex<LastLine>>,
    stderr: Option<AbortOnDropHandle<()>>,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) cause: LossCause,
    /// Continues "it …".
    pub(super) status: String,
    /// What it exited with, if it did.
    pub(super) code: Option<i32>,
}

impl Process {
    /// Starts a worker that will listen on `socket`.
    ///
    /// # Errors
    /// [`Error::Spawn`].
    pub(super) fn start(local: &LocalWorker, name: &str, socket: &Path) -> Result<Self, Error> {
        let listen = Address::Unix(socket.to_path_buf()).to_string();
        let mut command = Command::new(&local.program);
        command
            .arg("--model")
            .arg(&local.model)
            .args(["--listen", &listen, "--lifeline-fd", LIFELINE_FD, "--name", name])
            .args(&local.options)
            .envs(local.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: an interrupt at the terminal reaches the router alone, which then drains its workers.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| Error::Spawn {
            program: local.program.clone(),
            source,
        })?;
        let last_line = Arc::new(Mutex::new(LastLine::default()));
        let stderr = child.stderr.take().map(|stderr| {
            let copying = pass_on(stderr, last_line.clone());
            AbortOnDropHandle::new(tokio::spawn(copying))
        });
        Ok(Self {
            _lifeline: child.stdin.take(),
            child,
            last_line,
            stderr,
        })
    }

    /// Waits for its end. May be asked again.
    pub(super) async fn wait(&mut self) -> Exit {
        match self.child.wait().await {
            Ok(status) => Exit::from(status),
            Err(error) => Exit {
                cause: LossCause::Exit,
                status: format!("could not be waited for ({error})"),
                code: None,
            },
        }
    }

    /// Returns how it ended if it has, or does within `patience`.
    pub(super) async fn wait_at_most(&mut self, patience: Duration) -> Option<Exit> {
        tokio::time::timeout(patience, self.wait()).await.ok()
    }

    /// Returns the last line it wrote to its standard error.
    pub(super) async fn last_line(&mut self) -> String {
        if let Some(stderr) = &mut self.stderr {
            // The pipe may outlive the process in a process of its own.
            let _ = tokio::time::timeout(LAST_WORDS, stderr).await;
            self.stderr = None;
        }
        self.last_line.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// Asks it to leave, and kills it after `grace`.
    pub(super) async fn stop(mut self, grace: Duration) {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
        {
            // Fails only where it has ended already.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if self.wait_at_most(grace).await.is_none() {
            tracing::warn!(
                pid = self.child.id(),
                ?grace,
                "worker did not leave in time and is killed"
            );
            self.kill().await;
        }
    }

    /// Kills it and waits until it is gone, so that nothing of it remains.
    pub(super) async fn kill(&mut self) -> Exit {
        if let Err(error) = self.child.start_kill() {
            tracing::debug!(%error, "worker had ended before it was killed");
        }
        self.wait().await
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self {
                cause: LossCause::Exit,
                status: format!("exited with code {code}"),
                code: Some(code),
            },
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                let hint = match signal {
                    _ if signal == Signal::KILL.as_raw() => " (SIGKILL: by somebody, or for want of memory)",
                    _ if signal == Signal::BUS.as_raw() => " (SIGBUS: was a weight file cut short while mapped?)",
                    _ if signal == Signal::SEGV.as_raw() => " (SIGSEGV)",
                    _ if signal == Signal::ABORT.as_raw() => " (SIGABRT)",
                    _ if signal == Signal::TERM.as_raw() => " (SIGTERM)",
                    _ => "",
                };
                Self {
                    cause: LossCause::Signal,
                    status: format!("was ended by signal {signal}{hint}"),
                    code: None,
                }
            }
        }
    }
}

/// Copies a worker's standard error to ours and remembers its last line.
async fn pass_on(mut from: ChildStderr, last_line: Arc<Mutex<LastLine>>) {
    let mut to = tokio::io::stderr();
    let mut chunk = vec![0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&chunk[..length]);
        // Where our own standard error is gone there is nobody to tell.
        let _ = to.write_all(&chunk[..length]).await;
    }
    let _ = to.flush().await;
}

/// Keeps the last line of a stream that is meant for people, cut to a sensible length: neither empty nor a log record in
/// JSON nor the hint that follows a panic's message.
#[derive(Debug, Default)]
struct LastLine {
    complete: Vec<u8>,
    current: Vec<u8>,
}

impl LastLine {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                if is_for_people(&self.current) {
                    self.complete = std::mem::take(&mut self.current);
                }
                self.current.clear();
            } else if self.current.len() < LAST_LINE_BYTES {
                self.current.push(*byte);
            }
        }
    }

    fn text(&self) -> String {
        let line = if is_for_people(&self.current) {
            &self.current
        } else {
            &self.complete
        };
        String::from_utf8_lossy(line.trim_ascii()).into_owned()
    }
}

fn is_for_people(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    !(line.is_empty() || line.starts_with(b"{") || line.starts_with(b"note: run with"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_line(chunks: &[&str]) -> String {
        let mut line = LastLine::default();
        for chunk in chunks {
            line.push(chunk.as_bytes());
        }
        line.text()
    }

    #[test]
    fn the_last_line_that_says_something_is_kept() {
        assert_eq!(last_line(&["first\nsec", "ond\n\n  \n"]), "second");
        assert_eq!(last_line(&["first\nunfinished"]), "unfinished");
        assert_eq!(last_line(&[]), "");
        assert_eq!(last_line(&["{\"level\":\"INFO\"}\n"]), "");
        assert_eq!(
            last_line(&["why\nnote: run with `RUST_BACKTRACE=1`\n{\"level\":\"INFO\"}\n"]),
            "why"
        );
        assert_eq!(last_line(&[&"x".repeat(9000)]).len(), LAST_LINE_BYTES);
    }

    #[test]
    fn a_configured_program_that_is_missing_is_named() {
        let error = LocalWorker::find_program(Some(Path::new("/nowhere/kr-worker"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/kr-worker"), "{error}");
    }
}
