//! A program of ours as a child process: always ended, its output kept for the failure message.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::PATIENCE;

/// Returns the path of one of our programs, in the folder where cargo put this test's own.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Program {
    /// Starts a command; what it prints is collected.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::default();
        collect(child.stdout.take(), &output);
        collect(child.stderr.take(), &output);
        Self { child, output }
    }

    /// Returns what it printed so far, both streams together.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the process id while it has not been waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns the exit status if it has ended.
    ///
    /// # Panics
    /// When the operating system cannot say.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal, by name, as `kill` takes it.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, signal: &str) {
        let id = self.id().expect("the program still runs");
        signal_process(id, signal);
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come within [`PATIENCE`].
    pub async fn wait(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status
            .unwrap_or_else(|_| panic!("still running; it printed:\n{}", self.output()))
            .expect("a child can be waited for")
    }
}

/// How a program ran, from its start to its end.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Returns standard output if the program succeeded.
    ///
    /// # Panics
    /// When it did not; the message holds what it printed.
    #[must_use]
    pub fn success(self) -> String {
        assert!(
            self.status.success(),
            "{}:\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// Runs a program to its end, without standard input.
///
/// # Panics
/// When it cannot be started or does not end within [`PATIENCE`].
pub async fn run(command: &mut Command) -> Ran {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output.unwrap_or_else(|_| panic!("still running after {PATIENCE:?}: {command:?}"));
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        status: output.status,
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        took: started.elapsed(),
    }
}

/// Sends a signal to a process by id.
///
/// # Panics
/// When there is no such process.
pub(crate) fn signal_process(id: u32, signal: &str) {
    // The shell's own `kill`: the program of that name is not on every machine.
    let command = format!("kill -s {signal} {id}");
    let status = std::process::Command::new("sh").args(["-c", &command]).status();
    assert!(
        status.expect("sh can be run").success(),
        "no process {id} to send {signal}"
    );
}

/// Returns the ids of a process's children.
#[cfg(target_os = "linux")]
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted");
    let child = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it, in parentheses, may hold spaces; then come the state and the parent.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ').skip(1);
        (fields.next()?.parse() == Ok(parent)).then_some(id)
    };
    let mut found: Vec<u32> = processes.filter_map(|entry| child(entry.ok()?)).collect();
    found.sort_unstable();
    found
}

/// Returns the ids of a process's children.
///
/// # Panics
/// When `ps` cannot be run.
#[cfg(not(target_os = "linux"))]
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let output = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output();
    let output = output.expect("ps can be run").stdout;
    let child = |line: &str| {
        let (id, of) = line.trim().split_once(char::is_whitespace)?;
        (of.trim().parse() == Ok(parent)).then(|| id.parse().ok())?
    };
    String::from_utf8_lossy(&output).lines().filter_map(child).collect()
}

fn collect(stream: Option<impl AsyncRead + Unpin + Send + 'static>, output: &Arc<Mutex<String>>) {
    let Some(stream) = stream else { return };
    let output = Arc::clone(output);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&line);
            output.push('\n');
        }
    });
}
