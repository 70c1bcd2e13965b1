//! A worker without an engine, for tests: speaks the inner wire over a Unix socket and does what the test says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kr_proto::worker as proto;
use kr_proto::worker::worker_service_server::{WorkerService, WorkerServiceServer};
use proto::session_request::Message as Request;
use proto::session_response::Message as Response;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::Address;

/// Longer than anything takes that is going to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns a hello that every router accepts.
pub(crate) fn hello(model_digest: &str, tokenizer_digest: &str) -> proto::Hello {
    proto::Hello {
        protocol_major: kr_proto::WORKER_PROTOCOL.0,
        protocol_minor: kr_proto::WORKER_PROTOCOL.1,
        features: Vec::new(),
        required_features: Vec::new(),
        worker: Some(proto::WorkerProfile {
            instance_id: 1,
            model_digest: model_digest.into(),
            tokenizer_digest: tokenizer_digest.into(),
            fingerprint: Some(proto::NumericsFingerprint {
                backend: "fake".into(),
                dtype: "float32".into(),
                kernel_set: "none".into(),
                threads: 1,
                class: proto::ExactnessClass::Close.into(),
            }),
            context_tokens: 1024,
            max_sequences: 2,
            max_step_tokens: 512,
            kv_budget_bytes: 1 << 20,
            ..proto::WorkerProfile::default()
        }),
    }
}

/// A listening worker. Dropping it closes everything, as a killed process does.
#[derive(Debug)]
pub(crate) struct FakeWorker {
    pub(crate) address: Address,
    hello: proto::Hello,
    sessions: mpsc::Receiver<FakeSession>,
    _server: AbortOnDropHandle<()>,
}

/// One router's session.
#[derive(Debug)]
pub(crate) struct FakeSession {
    pub(crate) instance: u64,
    requests: Streaming<proto::SessionRequest>,
    responses: mpsc::Sender<Result<proto::SessionResponse, Status>>,
}

struct Service(mpsc::Sender<FakeSession>);

#[tonic::async_trait]
impl WorkerService for Service {
    type SessionStream = ReceiverStream<Result<proto::SessionResponse, Status>>;

    async fn session(
        &self,
        request: tonic::Request<Streaming<proto::SessionRequest>>,
    ) -> Result<tonic::Response<Self::SessionStream>, Status> {
        let (responses, stream) = mpsc::channel(64);
        let session = FakeSession {
            instance: 0,
            requests: request.into_inner(),
            responses,
        };
        self.0.send(session).await.map_err(|_| Status::unavailable("gone"))?;
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }
}

impl FakeWorker {
    /// Listens on `NAME.socket` in `directory`.
    pub(crate) fn start(directory: &Path, name: &str) -> Self {
        Self::start_as(directory, name, hello("m", "t"))
    }

    /// The same, saying `hello`.
    pub(crate) fn start_as(directory: &Path, name: &str, hello: proto::Hello) -> Self {
        Self::start_at(directory.join(format!("{name}.socket")), hello)
    }

    /// Listens on `path`, in place of whoever listened there.
    pub(crate) fn start_at(path: PathBuf, hello: proto::Hello) -> Self {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, sessions) = mpsc::channel(8);
        let server = tonic::transport::Server::builder()
            .add_service(WorkerServiceServer::new(Service(sender)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self {
            address: Address::Unix(path),
            hello,
            sessions,
            _server: AbortOnDropHandle::new(server),
        }
    }

    /// Waits for a router and answers its hello.
    pub(crate) async fn session(&mut self) -> FakeSession {
        let mut session = soon(self.sessions.recv()).await.unwrap();
        assert!(matches!(session.next().await, Some(Request::Hello(_))));
        session.instance = self.hello.worker.as_ref().map_or(0, |worker| worker.instance_id);
        session.send(Response::Hello(self.hello.clone())).await;
        session
    }
}

impl FakeSession {
    /// Returns the router's next message; `None` once it has ended the session.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        soon(self.requests.message())
            .await
            .ok()
            .flatten()
            .and_then(|request| request.message)
    }

    pub(crate) async fn next_admit(&mut self) -> proto::Admit {
        match self.next().await {
            Some(Request::Admit(admit)) => admit,
            other => panic!("expected Admit, got {other:?}"),
        }
    }

    pub(crate) async fn next_cancel(&mut self) -> (u64, proto::CancelReason) {
        match self.next().await {
            Some(Request::Cancel(cancel)) => (cancel.sequence_id, cancel.reason()),
            other => panic!("expected Cancel, got {other:?}"),
        }
    }

    pub(crate) async fn send(&self, message: Response) {
        let message = Some(message);
        soon(self.responses.send(Ok(proto::SessionResponse { message })))
            .await
            .unwrap();
    }

    /// Sends a frame with what is set in it and the rest filled in.
    pub(crate) async fn frame(&self, frame: proto::StepFrame) {
        let frame = proto::StepFrame {
            worker_instance_id: self.instance,
            planned_sequences: 1,
            planned_tokens: 1,
            next_expected: Some(prost_types::Duration {
                seconds: 0,
                nanos: 1_000_000,
            }),
            ..frame
        };
        self.send(Response::Frame(frame)).await;
    }

    pub(crate) async fn accept(&self, id: u64) {
        let accepted = vec![id];
        self.frame(proto::StepFrame {
            accepted,
            ..proto::StepFrame::default()
        })
        .await;
    }

    pub(crate) async fn tokens(&self, id: u64, start_index: u32, ids: &[u32]) {
        self.step(proto::SequenceStep {
            sequence_id: id,
            start_index,
            ids: ids.to_vec(),
            ..proto::SequenceStep::default()
        })
        .await;
    }

    pub(crate) async fn finish(&self, id: u64, reason: proto::FinishReason) {
        let finish = proto::SequenceFinish {
            reason: reason.into(),
            max_batch_size: 7,
            ..proto::SequenceFinish::default()
        };
        self.step(proto::SequenceStep {
            sequence_id: id,
            finish: Some(finish),
            ..proto::SequenceStep::default()
        })
        .await;
    }

    async fn step(&self, step: proto::SequenceStep) {
        let sequences = vec![step];
        self.frame(proto::StepFrame {
            sequences,
            ..proto::StepFrame::default()
        })
        .await;
    }

    pub(crate) async fn reject(&self, id: u64, reason: proto::RejectReason) {
        self.send(Response::Rejected(proto::Rejected {
            sequence_id: Some(id),
            reason: reason.into(),
            message: "for the test".into(),
        }))
        .await;
    }
}

/// Waits, but not forever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}
