//! A kr-worker process, ended with the test.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use kr_proto::worker::session_request::Message;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::worker_service_client::WorkerServiceClient;
use kr_proto::worker::{Admit, Hello, Sampling, SessionRequest, SessionResponse};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) folder: TempDir,
}

/// Returns a worker's command with nothing of the test's own environment that it would act on.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kr-worker"));
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("KR_") || name.starts_with("OTEL_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// What a process that ended left.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    pub(crate) after: Duration,
}

/// Runs a worker to its end.
pub(crate) async fn ended(arguments: &[&str]) -> Ended {
    end_of(command(arguments)).await
}

pub(crate) async fn end_of(mut command: Command) -> Ended {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = wait(&mut child).await;
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Ended {
        code: status.code(),
        stderr,
        after: started.elapsed(),
    }
}

/// Waits for the process's end.
pub(crate) async fn wait(child: &mut Child) -> ExitStatus {
    poll(|| child.try_wait().unwrap()).await
}

async fn poll<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let found = async {
        loop {
            tick.tick().await;
            if let Some(found) = attempt() {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("nothing happens")
}

impl Worker {
    /// Starts a fake on a Unix socket; its standard input is the lifeline.
    pub(crate) async fn start(fake: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Self::spawn(folder.path(), fake);
        let worker = Self { child, folder };
        worker.address().await;
        worker
    }

    pub(crate) fn spawn(folder: &Path, fake: &str) -> Child {
        let listen = format!("unix:{}", socket(folder).display());
        let address_file = folder.join("address");
        let mut command = command(&[
            "--listen",
            &listen,
            "--fake",
            fake,
            "--lifeline-fd",
            "0",
            "--address-file",
        ]);
        command
            .arg(&address_file)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits until the worker is ready and returns where it listens.
    pub(crate) async fn address(&self) -> String {
        address(&self.folder.path().join("address")).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = tokio::process::Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status()
            .await;
        assert!(status.unwrap().success());
    }

    pub(crate) async fn open(&self) -> Router {
        Router::open(unix_channel(self.socket()).await).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("w.sock")
}

pub(crate) async fn address(file: &Path) -> String {
    poll(|| std::fs::read_to_string(file).ok()).await
}

/// Waits until `path` is there.
pub(crate) async fn exists(path: &Path) {
    poll(|| path.exists().then_some(())).await;
}

pub(crate) async fn unix_channel(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://worker")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A router's side of a session.
pub(crate) struct Router {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
}

impl Router {
    pub(crate) async fn open(channel: Channel) -> Self {
        Self::try_open(channel).await.unwrap()
    }

    pub(crate) async fn try_open(channel: Channel) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(16);
        let responses = WorkerServiceClient::new(channel)
            .session(ReceiverStream::new(receiver))
            .await?;
        let mut router = Self {
            requests,
            responses: responses.into_inner(),
        };
        let hello = Hello {
            protocol_major: 1,
            ..Hello::default()
        };
        router.send(Message::Hello(hello)).await;
        assert!(matches!(router.next().await?, Some(Response::Hello(_))));
        Ok(router)
    }

    pub(crate) async fn send(&self, message: Message) {
        self.requests
            .send(SessionRequest { message: Some(message) })
            .await
            .unwrap();
    }

    /// Admits a sequence and returns once it has a token.
    pub(crate) async fn run(&mut self, max_tokens: u32) {
        let sampling = Sampling {
            top_p: 1.0,
            repetition_penalty: 1.0,
            ..Sampling::default()
        };
        let admit = Admit {
            sequence_id: 1,
            prompt_ids: vec![5, 6],
            max_tokens,
            sampling: Some(sampling),
            ..Admit::default()
        };
        self.send(Message::Admit(admit)).await;
        while !matches!(self.next().await, Ok(Some(Response::Frame(frame))) if !frame.sequences.is_empty()) {}
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Response>, tonic::Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("nothing comes");
        message.map(|message| message.and_then(|message| message.message))
    }
}
