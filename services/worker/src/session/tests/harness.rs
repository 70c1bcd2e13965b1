//! A worker of this process behind a Unix socket, and a router that talks to it.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use kr_contract::{SamplingParams, WorkerInstanceId};
use kr_engine::fake::{FakeModel, FakeModelConfig, Pace, StepTime};
use kr_proto::WORKER_PROTOCOL;
use kr_proto::worker::session_request::Message;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::worker_service_client::WorkerServiceClient;
use kr_proto::worker::{Admit, Hello, Rejected, Sampling, SessionRequest, SessionResponse, StepFrame};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::metrics::noop::NoopMeterProvider;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::engine::{Life, Starting};
use crate::fake::FakeSpec;
use crate::listen::{self, Listen, SocketFile};
use crate::metrics::Metrics;
use crate::readiness::{self, Readiness};
use crate::server::WorkerServer;
use crate::session::{Config, Sessions};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A model whose steps take no time.
pub(super) fn fast() -> FakeModelConfig {
    FakeModelConfig::default()
}

/// A model whose steps take a while, so that a test can act in between.
pub(super) fn slow() -> FakeModelConfig {
    FakeModelConfig {
        pace: Pace::RealTime,
        step_time: StepTime {
            base: Duration::from_millis(5),
            ..StepTime::default()
        },
        ..fast()
    }
}

pub(super) fn hello() -> Hello {
    let (protocol_major, protocol_minor) = WORKER_PROTOCOL;
    Hello {
        protocol_major,
        protocol_minor,
        ..Hello::default()
    }
}

/// Returns greedy sampling with everything else off, as a router sends it.
pub(super) fn greedy() -> Sampling {
    Sampling {
        top_p: 1.0,
        repetition_penalty: 1.0,
        ..Sampling::default()
    }
}

pub(super) fn greedy_params() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

pub(super) fn admit(sequence_id: u64, prompt_ids: &[u32], max_tokens: u32) -> Admit {
    Admit {
        sequence_id,
        attempt: 1,
        prompt_ids: prompt_ids.to_vec(),
        max_tokens,
        sampling: Some(greedy()),
        ..Admit::default()
    }
}

/// Whether a model loads.
pub(super) type Verdict = Result<(), &'static str>;

pub(super) struct Worker {
    listen: Listen,
    sessions: Sessions,
    readiness: watch::Sender<Readiness>,
    /// Ends the load of [`Worker::loading`].
    pub(super) loader: SyncSender<Verdict>,
    stop: CancellationToken,
    _file: Option<SocketFile>,
    _folder: TempDir,
}

impl Worker {
    /// Starts a worker and waits until its model is loaded.
    pub(super) async fn start(model: FakeModelConfig) -> Self {
        Self::start_with(model, 1024).await
    }

    pub(super) async fn start_with(model: FakeModelConfig, frame_capacity: usize) -> Self {
        let worker = Self::loading(model, frame_capacity).await;
        worker.loader.send(Ok(())).unwrap();
        worker
            .reaches(|readiness| matches!(readiness, Readiness::Ready(_)))
            .await;
        worker
    }

    /// Starts a worker whose model loads once the test says so.
    pub(super) async fn loading(model: FakeModelConfig, frame_capacity: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(folder.path().join("w.sock"));
        let (loader, verdict) = sync_channel::<Verdict>(1);
        let starting = Starting::with(move |report| {
            verdict.recv()??;
            let mut spec: FakeSpec = "".parse()?;
            report.send(spec.facts(None)?)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(FakeModel::new(model))
        });
        let metrics = Metrics::new(&NoopMeterProvider::new().meter("test"));
        let readiness = readiness::channel();
        let config = Config {
            hello_timeout: PATIENCE,
            frame_capacity,
        };
        let sessions = Sessions::new(config, starting.handle(), readiness.clone(), Arc::clone(&metrics));
        let server = WorkerServer::new(sessions.clone()).await.unwrap();
        let bound = listen::bind(&listen).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(bound.listener, stop.clone()));
        let supervised = readiness.clone();
        let life = Life {
            instance: WorkerInstanceId(42),
            started: Instant::now(),
        };
        std::thread::spawn(move || starting.supervise(life, &supervised, &metrics));
        Self {
            listen,
            sessions,
            readiness,
            loader,
            stop,
            _file: bound.file,
            _folder: folder,
        }
    }

    pub(super) async fn reaches(&self, state: impl FnMut(&Readiness) -> bool) -> Readiness {
        let mut readiness = self.readiness.subscribe();
        let reached = tokio::time::timeout(PATIENCE, readiness.wait_for(state)).await;
        reached.unwrap().unwrap().clone()
    }

    /// Waits until no session is open.
    pub(super) async fn is_alone(&self) {
        let alone = async {
            while self.sessions.open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, alone)
            .await
            .expect("a session stays open");
    }

    /// Opens a stream and says nothing.
    pub(super) async fn connect(&self) -> Router {
        let Listen::Unix(path) = self.listen.clone() else {
            panic!("not a Unix socket");
        };
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://worker").initial_stream_window_size(65_535);
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let (requests, receiver) = mpsc::channel(64);
        let mut client = WorkerServiceClient::new(channel);
        let responses = client
            .session(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Router { requests, responses }
    }

    /// Opens a session.
    pub(super) async fn open(&self) -> Router {
        let mut router = self.connect().await;
        router.send(Message::Hello(hello())).await;
        assert!(matches!(router.next().await, Response::Hello(_)));
        router
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A router's side of a session.
pub(super) struct Router {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
}

impl Router {
    pub(super) async fn send(&self, message: Message) {
        self.requests
            .send(SessionRequest { message: Some(message) })
            .await
            .unwrap();
    }

    pub(super) async fn try_next(&mut self) -> Result<Option<Response>, tonic::Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("nothing comes");
        message.map(|message| message.map(|message| message.message.unwrap()))
    }

    pub(super) async fn next(&mut self) -> Response {
        self.try_next().await.unwrap().expect("the session ended")
    }

    pub(super) async fn frame(&mut self) -> StepFrame {
        match self.next().await {
            Response::Frame(frame) => frame,
            other => panic!("not a frame: {other:?}"),
        }
    }

    pub(super) async fn rejected(&mut self) -> Rejected {
        loop {
            match self.next().await {
                Response::Rejected(rejected) => return rejected,
                Response::Frame(_) => {}
                other => panic!("not a rejection: {other:?}"),
            }
        }
    }

    /// Reads until the stream's end and returns how it ended.
    pub(super) async fn end(&mut self) -> Result<(), Code> {
        loop {
            match self.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => return Err(status.code()),
            }
        }
    }
}
