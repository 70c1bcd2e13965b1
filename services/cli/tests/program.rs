//! Running `kr`: with an environment of its own, and never longer than a test may take.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// The longest any wait takes before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A home folder that only this test uses.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// `kr` with these arguments, with nothing of the tester's own environment but what coverage needs.
    pub(crate) fn kr(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_kr"));
        command.args(arguments);
        command
    }

    /// Another program in the same environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let kept =
            std::env::vars_os().filter(|(name, _)| ["PATH", "LLVM_PROFILE_FILE"].iter().any(|kept| name == kept));
        command
            .env_clear()
            .envs(kept)
            .env("HOME", self.path())
            .env("TERM", "xterm");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Ran {
    /// Returns standard output of a program that succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Returns standard error of a program that ended with `code`.
    #[track_caller]
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// Runs to the end.
pub(crate) async fn run(command: &mut Command) -> Ran {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    within(output).await.unwrap().into()
}

/// Runs to the end with `input` on standard input.
pub(crate) async fn run_with(command: &mut Command, input: &str) -> Ran {
    let mut running = Running::start(command);
    running.write(input).await;
    running.finish().await
}

/// A program under way with pipes to it.
pub(crate) struct Running {
    child: Child,
    stdout: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
            stdout: String::new(),
        }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        within(stdin.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads standard output until `text` has come since the last call, and returns what came with it.
    pub(crate) async fn expect(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.stdout.find(text) {
                let rest = self.stdout.split_off(at + text.len());
                return std::mem::replace(&mut self.stdout, rest);
            }
            let read = tokio::time::timeout(PATIENCE, self.child.stdout.as_mut().unwrap().read(&mut buffer)).await;
            let read = read
                .unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.stdout))
                .unwrap();
            assert!(read > 0, "it ended before {text:?}: {:?}", self.stdout);
            self.stdout.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    /// Sends the signal of Ctrl-C.
    pub(crate) async fn interrupt(&self) {
        let id = self.child.id().unwrap().to_string();
        let status = Command::new("kill").args(["-s", "INT", &id]).status().await;
        assert!(status.unwrap().success());
    }

    /// Ends its input, waits for its end and returns what it printed since [`Self::expect`].
    pub(crate) async fn finish(mut self) -> Ran {
        drop(self.child.stdin.take());
        self.ended().await
    }

    /// Waits for its end while its input stays open, and returns what it printed since [`Self::expect`].
    pub(crate) async fn ended(mut self) -> Ran {
        let _input = self.child.stdin.take();
        let mut ran: Ran = within(self.child.wait_with_output()).await.unwrap().into();
        ran.stdout.insert_str(0, &self.stdout);
        ran
    }

    /// Closes the reading end of its standard output.
    pub(crate) fn stop_reading(&mut self) {
        drop(self.child.stdout.take());
    }
}

/// Fails the test if `future` takes longer than [`PATIENCE`].
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}
