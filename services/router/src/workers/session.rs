//! One session with one worker: hello both ways, then commands out and frames in, under the watchdog. The session carries
//! and converts; it decides nothing about sequences.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::WorkerInstanceId;
use kr_proto::worker::worker_service_client::WorkerServiceClient;
use kr_proto::worker::{SessionRequest, SessionResponse, session_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::identity::Identity;
use super::supervisor::Notices;
use super::watchdog::{Watchdog, WatchdogLimits};
use super::{Command, Error, LossCause, Ready, WorkerEvent, WorkerProfile};
use crate::clock;
use crate::convert_worker as convert;
use crate::metrics::WorkerMetrics;

/// Commands and messages that may wait to be written. More means that the worker does not read.
const OUTBOUND: usize = 1024;
/// A frame of a large batch with log probabilities takes a few megabytes.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Before silence counts: where this process itself was suspended or starved, what the worker sent lies unread.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// An open session; the worker has said hello and passed every check.
#[derive(Debug)]
pub(super) struct Session {
    outbound: mpsc::Sender<SessionRequest>,
    inbound: Streaming<SessionResponse>,
    profile: Arc<WorkerProfile>,
    metrics: WorkerMetrics,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// It was asked to.
    Stopped,
    /// It broke, or had to be given up.
    Lost { cause: LossCause, message: String },
}

/// What a session runs under.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) notices: &'a Notices,
    pub(super) watchdog: WatchdogLimits,
    pub(super) stop: &'a CancellationToken,
    /// When stopped: how long the worker may take to finish. Unset for a worker that others may use after us; its session
    /// just ends.
    pub(super) drain: Option<Duration>,
}

impl Session {
    /// Says hello and waits for the answer. The caller sets the deadline.
    ///
    /// # Errors
    /// No session with this worker is possible as it is now.
    pub(super) async fn open(channel: Channel, identity: &Identity, metrics: WorkerMetrics) -> Result<Self, Error> {
        let (outbound, requests) = mpsc::channel(OUTBOUND);
        // In the stream before the call, since a worker may answer only once it has read it.
        outbound.try_send(convert::hello()).map_err(|_| Error::NoHello)?;
        metrics.sent();
        let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let opened = client.session(ReceiverStream::new(requests)).await;
        let mut inbound = opened.map_err(open_error)?.into_inner();
        let answer = inbound.message().await.map_err(open_error)?.ok_or(Error::NoHello)?;
        metrics.received();
        let profile = match answer.message {
            Some(session_response::Message::Hello(hello)) => convert::profile(hello)?,
            Some(session_response::Message::Rejected(rejected)) => {
                return Err(Error::Refused {
                    message: rejected.message,
                });
            }
            Some(_) | None => return Err(Error::NoHello),
        };
        identity.check(&profile.model_digest, &profile.tokenizer_digest)?;
        Ok(Self {
            outbound,
            inbound,
            profile: Arc::new(profile),
            metrics,
        })
    }

    pub(super) fn profile(&self) -> &Arc<WorkerProfile> {
        &self.profile
    }

    /// Announces the worker as ready and serves it until one side ends.
    pub(super) async fn run(self, terms: Terms<'_>) -> SessionEnd {
        let (commands, inbox) = mpsc::channel(OUTBOUND);
        let ready = Ready {
            profile: self.profile.clone(),
            commands,
        };
        terms.notices.send(WorkerEvent::Ready(ready)).await;
        let pace = (self.profile.max_step_tokens, self.profile.speed);
        let watchdog = Watchdog::new(terms.watchdog, pace, clock::now());
        let mut running = RunningSession {
            instance: self.profile.instance,
            outbound: self.outbound,
            inbound: self.inbound,
            inbox,
            watchdog,
            draining_until: None,
            metrics: self.metrics,
        };
        loop {
            if let Err(end) = running.turn(&terms).await {
                return end;
            }
        }
    }
}

fn open_error(status: tonic::Status) -> Error {
    Error::Open {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// What the session's stream gives: a message, its end, or why it broke.
type Received = Result<Option<SessionResponse>, tonic::Status>;

/// Everything that can happen to a running session.
#[expect(clippy::large_enum_variant, reason = "moved once, and never stored")]
enum Event {
    Command(Option<Command>),
    Message(Received),
    Silence,
    Stop,
    DrainOver,
}

#[derive(Debug)]
struct RunningSession {
    instance: WorkerInstanceId,
    outbound: mpsc::Sender<SessionRequest>,
    inbound: Streaming<SessionResponse>,
    inbox: mpsc::Receiver<Command>,
    watchdog: Watchdog,
    draining_until: Option<Instant>,
    metrics: WorkerMetrics,
}

impl RunningSession {
    async fn next(&mut self, stop: &CancellationToken) -> Event {
        tokio::select! {
            message = self.inbound.message() => Event::Message(message),
            command = self.inbox.recv() => Event::Command(command),
            () = clock::reached(self.watchdog.deadline()) => Event::Silence,
            () = stop.cancelled(), if self.draining_until.is_none() => Event::Stop,
            () = clock::reached(self.draining_until) => Event::DrainOver,
        }
    }

    /// Handles one event; `Err` is the end.
    async fn turn(&mut self, terms: &Terms<'_>) -> Result<(), SessionEnd> {
        match self.next(terms.stop).await {
            Event::Message(message) => self.message(message, terms.notices).await,
            Event::Command(Some(command)) => self.command(command),
            Event::Command(None) | Event::DrainOver => Err(SessionEnd::Stopped),
            Event::Silence => match tokio::time::timeout(SECOND_LOOK, self.inbound.message()).await {
                Ok(message) => self.message(message, terms.notices).await,
                Err(_) => Err(lost(
                    LossCause::Wedged,
                    "the worker delivered nothing for too long with work in flight",
                )),
            },
            Event::Stop => {
                let timeout = terms.drain.ok_or(SessionEnd::Stopped)?;
                self.draining_until = Some(clock::now() + timeout);
                self.send(convert::drain(timeout))
            }
        }
    }

    async fn message(&mut self, message: Received, notices: &Notices) -> Result<(), SessionEnd> {
        match message {
            Ok(Some(response)) => self.response(response, notices).await,
            Ok(None) => Err(lost(LossCause::Disconnected, "the worker closed the session")),
            Err(status) => Err(lost(
                LossCause::Disconnected,
                format!("the session broke ({}): {}", status.code(), status.message()),
            )),
        }
    }

    fn command(&mut self, command: Command) -> Result<(), SessionEnd> {
        if let Command::Admit(admission) = &command {
            let tokens = admission.request.prompt.len() + admission.emitted.len();
            self.watchdog.admitted(admission.id, tokens, clock::now());
        }
        self.send(convert::command(command))
    }

    fn send(&self, request: SessionRequest) -> Result<(), SessionEnd> {
        self.outbound
            .try_send(request)
            .map_err(|_| lost(LossCause::Wedged, "the worker does not read what it is sent"))?;
        self.metrics.sent();
        Ok(())
    }

    async fn response(&mut self, response: SessionResponse, notices: &Notices) -> Result<(), SessionEnd> {
        use session_response::Message;
        self.metrics.received();
        match response.message {
            Some(Message::Frame(frame)) if frame.worker_instance_id != self.instance.0 => {
                tracing::warn!(worker = %notices.name, "frame of a former life dropped");
                Ok(())
            }
            Some(Message::Frame(frame)) => {
                let frame = convert::frame(frame).map_err(|error| lost(LossCause::Protocol, error.to_string()))?;
                self.watchdog.frame(&frame, clock::now());
                notices.send(WorkerEvent::Frame(frame)).await;
                Ok(())
            }
            Some(Message::Rejected(rejected)) => {
                let rejected = convert::rejected(rejected).map_err(|message| lost(LossCause::Disconnected, message))?;
                self.watchdog.rejected(rejected.id, clock::now());
                notices.send(WorkerEvent::Rejected(rejected)).await;
                Ok(())
            }
            Some(Message::Drained(_)) if self.draining_until.is_some() => Err(SessionEnd::Stopped),
            Some(Message::Drained(_)) => Err(lost(LossCause::Disconnected, "the worker drained by itself")),
            Some(Message::Pong(_)) => Ok(()),
            Some(Message::Hello(_)) => Err(lost(LossCause::Protocol, "the worker said hello twice")),
            None => Err(lost(LossCause::Protocol, "the worker sent an empty message")),
        }
    }
}

fn lost(cause: LossCause, message: impl Into<String>) -> SessionEnd {
    SessionEnd::Lost {
        cause,
        message: message.into(),
    }
}
