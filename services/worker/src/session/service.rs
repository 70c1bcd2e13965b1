//! The gRPC service: opens sessions, one at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kr_engine::{CommandError, EngineHandle, EngineSession};
use kr_proto::worker::worker_service_server::WorkerService;
use kr_proto::worker::{Hello, SessionRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::opening::{self, Loaded};
use super::outgoing::{self, Outgoing, SessionStream};
use super::sink::{self, ChannelSink};
use super::{Rejection, Session, State};
use crate::convert;
use crate::metrics::Metrics;
use crate::profile::Profile;
use crate::readiness::Readiness;
use crate::status::Error;

/// How sessions are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// How long the first message may take.
    pub(crate) hello_timeout: Duration,
    /// Frames that may lie unread before the session ends.
    pub(crate) frame_capacity: usize,
}

/// Opens sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    engine: EngineHandle,
    readiness: watch::Sender<Readiness>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// Ends the present session when another one takes over.
    present: Mutex<CancellationToken>,
}

impl Sessions {
    pub(crate) fn new(
        config: Config,
        engine: EngineHandle,
        readiness: watch::Sender<Readiness>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Shared {
            config,
            engine,
            readiness,
            metrics,
            tasks: TaskTracker::new(),
            present: Mutex::new(CancellationToken::new()),
        }))
    }

    /// Returns how many sessions are open or opening.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.0.tasks.len()
    }

    /// Waits until the sessions have ended. They do once the engine has.
    pub(crate) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = SessionStream;

    async fn session(&self, request: Request<Streaming<SessionRequest>>) -> Result<Response<SessionStream>, Status> {
        let (outgoing, stream) = outgoing::channel();
        let shared = Arc::clone(&self.0);
        self.0
            .tasks
            .spawn(async move { shared.run(request.into_inner(), outgoing).await });
        Ok(Response::new(stream))
    }
}

impl Shared {
    async fn run(&self, requests: Streaming<SessionRequest>, outgoing: Outgoing) {
        self.metrics.session_opened();
        let result = match self.open(requests, outgoing).await {
            Ok(Some(session)) => {
                tracing::info!("session opened");
                session.serve().await
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.metrics
            .session_ended(result.as_ref().map_or_else(Error::as_str, |()| "closed"));
        match result {
            Ok(()) => tracing::info!("session ended"),
            Err(error) => tracing::warn!(%error, "session broke off"),
        }
    }

    /// Returns the session, or `None` where the router was told why there is none.
    async fn open(
        &self,
        mut requests: Streaming<SessionRequest>,
        outgoing: Outgoing,
    ) -> Result<Option<Session>, Error> {
        let accepted = tokio::select! {
            accepted = self.accept(&mut requests) => accepted,
            () = outgoing.closed() => return Ok(None),
        };
        let (answer, profile) = match accepted {
            Ok(Ok(profile)) => (convert::hello(&profile), profile),
            Ok(Err(rejection)) => {
                self.metrics.rejected(rejection.reason);
                if let Ok(permit) = outgoing.reserve().await {
                    permit.send(convert::rejected(rejection));
                }
                return Ok(None);
            }
            Err(error) => {
                outgoing.fail((&error).into());
                return Err(error);
            }
        };
        let (sink, frames, overflowed) = sink::channel(self.config.frame_capacity);
        let (engine, replaced) = match self.take_over(sink) {
            Ok(taken) => taken,
            Err(_) => {
                outgoing.fail((&Error::Busy).into());
                return Err(Error::Busy);
            }
        };
        let mut state = State::default();
        state.pending.push_back(answer);
        Ok(Some(Session {
            engine,
            handle: self.engine.clone(),
            requests,
            outgoing,
            frames,
            overflowed,
            replaced,
            readiness: self.readiness.clone(),
            profile,
            metrics: Arc::clone(&self.metrics),
            state,
        }))
    }

    /// Waits for Hello and the model. A session that is refused does not disturb the present one.
    async fn accept(&self, requests: &mut Streaming<SessionRequest>) -> Result<Result<Arc<Profile>, Rejection>, Error> {
        let hello: Hello = opening::hello(requests, self.config.hello_timeout).await?;
        if let Some(rejection) = opening::refusal(&hello) {
            return Ok(Err(rejection));
        }
        match opening::loaded(self.readiness.subscribe()).await? {
            Loaded::Ready(profile) => Ok(Ok(profile)),
            Loaded::Refused(rejection) => Ok(Err(rejection)),
        }
    }

    /// Makes `sink` the engine's, then ends the session before: its sequences are gone by the time it is told.
    fn take_over(&self, sink: ChannelSink) -> Result<(EngineSession, CancellationToken), CommandError> {
        let replaced = CancellationToken::new();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let session = self.engine.attach(Box::new(sink))?;
        std::mem::replace(&mut *present, replaced.clone()).cancel();
        Ok((session, replaced))
    }
}
