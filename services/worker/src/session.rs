//! One router's session: admits and cancels go to the engine, one frame per engine step comes back.
//!
//! The session never waits for the router while commands could arrive, and the engine never waits for the session: frames
//! lie in a bounded channel, and a router that lets it fill loses the session.

mod admission;
mod opening;
mod outgoing;
mod sequences;
mod service;
mod sink;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kr_contract::{FinishReason, SequenceId};
use kr_engine::frame::{Load, StepFrame};
use kr_engine::{CommandError, EngineHandle, EngineSession};
use kr_proto::worker::session_request::Message;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::{Admit, Drained, Pong, RejectReason, SessionRequest, SessionResponse};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::convert;
use crate::metrics::Metrics;
use crate::profile::Profile;
use crate::readiness::Readiness;
use crate::status::Error;

pub(crate) use admission::{FEATURES, Rejection};
use outgoing::Outgoing;
use sequences::Sequences;
pub(crate) use service::{Config, Sessions};

/// Responses that may wait for the transport, and commands that may wait for the engine, before the session stops reading
/// requests.
const MAX_PENDING: usize = 256;
/// How long until a command that found the engine's queue full is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// How long the engine may take to tell why it ended.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(2);

/// An open session.
struct Session {
    engine: EngineSession,
    handle: EngineHandle,
    requests: Streaming<SessionRequest>,
    outgoing: Outgoing,
    frames: mpsc::Receiver<StepFrame>,
    overflowed: CancellationToken,
    replaced: CancellationToken,
    readiness: watch::Sender<Readiness>,
    profile: Arc<Profile>,
    metrics: Arc<Metrics>,
    state: State,
}

/// What changes while the session is open.
#[derive(Default)]
struct State {
    sequences: Sequences,
    /// Responses not given to the transport yet, oldest first.
    pending: VecDeque<SessionResponse>,
    /// Commands that found the engine's queue full, oldest first.
    unsent: VecDeque<Command>,
    load: Load,
    /// Sequences that ended because the drain's time was over.
    drained_with_error: u32,
}

/// A command that must reach the engine.
#[derive(Debug, Clone, Copy)]
enum Command {
    Cancel(SequenceId),
    Drain(Duration),
}

/// Everything a session waits for.
#[expect(clippy::large_enum_variant, reason = "moved once, and never stored")]
enum Event {
    Request(Result<Option<SessionRequest>, tonic::Status>),
    Frame(Option<StepFrame>),
    /// The transport took a response.
    Sent,
    RetryCommands,
    Overflowed,
    Replaced,
    RouterGone,
}

/// Why a session ends without an error.
enum End {
    /// The router closed it.
    Closed,
    /// The engine has drained.
    Drained,
}

impl Session {
    /// Serves the session until it ends, and closes the stream. Sequences still running are cancelled.
    async fn serve(mut self) -> Result<(), Error> {
        let result = loop {
            let event = self.next_event().await;
            match self.handle(event).await {
                Ok(None) => {}
                Ok(Some(end)) => break Ok(end),
                Err(error) => break Err(error),
            }
        };
        tracing::debug!(live_sequences = self.state.sequences.len(), "session leaves the engine");
        match result {
            Ok(End::Closed) => Ok(()),
            Ok(End::Drained) => self.finish_draining().await,
            Err(error) => {
                self.outgoing.fail((&error).into());
                Err(error)
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let state = &mut self.state;
        let can_read = state.pending.len() < MAX_PENDING && state.unsent.len() < MAX_PENDING;
        let can_convert = state.pending.is_empty();
        tokio::select! {
            request = self.requests.message(), if can_read => Event::Request(request),
            frame = self.frames.recv(), if can_convert => Event::Frame(frame),
            permit = self.outgoing.reserve(), if !can_convert => match (permit, state.pending.pop_front()) {
                (Ok(permit), Some(response)) => {
                    permit.send(response);
                    Event::Sent
                }
                _ => Event::RouterGone,
            },
            () = tokio::time::sleep(RETRY_AFTER), if !state.unsent.is_empty() => Event::RetryCommands,
            () = self.overflowed.cancelled() => Event::Overflowed,
            () = self.replaced.cancelled() => Event::Replaced,
            () = self.outgoing.closed() => Event::RouterGone,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<Option<End>, Error> {
        match event {
            Event::Request(Ok(Some(request))) => self.receive(request)?,
            Event::Request(Ok(None)) | Event::RouterGone => return Ok(Some(End::Closed)),
            Event::Request(Err(status)) => return Err(Error::Disconnected(status.message().to_owned())),
            Event::Frame(Some(frame)) => self.deliver(frame),
            Event::Frame(None) => return self.engine_left().await.map(Some),
            Event::Sent => {}
            Event::RetryCommands => self.send_commands(),
            Event::Overflowed => return Err(Error::SlowReader(self.frames.max_capacity())),
            Event::Replaced => return Err(Error::Replaced),
        }
        Ok(None)
    }

    fn receive(&mut self, request: SessionRequest) -> Result<(), Error> {
        match request.message.ok_or(Error::EmptyMessage)? {
            Message::Hello(_) => return Err(Error::HelloAgain),
            Message::Admit(admit) => self.admit(admit),
            Message::Cancel(cancel) => {
                self.metrics.cancel_received(cancel.reason());
                self.command(Command::Cancel(SequenceId(cancel.sequence_id)));
            }
            Message::Drain(drain) => {
                let timeout = drain.timeout.and_then(|timeout| timeout.try_into().ok());
                self.readiness.send_if_modified(Readiness::start_draining);
                self.command(Command::Drain(timeout.unwrap_or_default()));
            }
            Message::Ping(ping) => {
                let load = Some(self.load());
                self.respond(Response::Pong(Pong {
                    nonce: ping.nonce,
                    load,
                }));
            }
        }
        Ok(())
    }

    fn admit(&mut self, mut admit: Admit) {
        let id = SequenceId(admit.sequence_id);
        let (attempt, traceparent) = (admit.attempt, std::mem::take(&mut admit.traceparent));
        if self.state.sequences.contains(id) {
            return self.reject(Rejection {
                sequence: Some(id),
                reason: RejectReason::Invalid,
                message: "sequence_id is in use; number sequences without repetition".to_owned(),
            });
        }
        let request = match admission::check(admit, self.profile.model.vocabulary_size) {
            Ok(request) => request,
            Err(rejection) => return self.reject(rejection),
        };
        let sequences = &mut self.state.sequences;
        sequences.add(&request, attempt, &traceparent);
        if let Err(error) = self.engine.admit(request) {
            let (reason, message) = match error {
                CommandError::Busy => (
                    RejectReason::Busy,
                    "the engine's command queue is full; try another worker",
                ),
                CommandError::Stopped => (RejectReason::Draining, "the engine has stopped; try another worker"),
            };
            sequences.rejected(id, message);
            self.reject(Rejection {
                sequence: Some(id),
                reason,
                message: message.to_owned(),
            });
        }
    }

    fn reject(&mut self, rejection: Rejection) {
        self.metrics.rejected(rejection.reason);
        self.state.pending.push_back(convert::rejected(rejection));
    }

    fn respond(&mut self, response: Response) {
        self.state.pending.push_back(convert::response(response));
    }

    fn deliver(&mut self, frame: StepFrame) {
        self.send_commands();
        self.metrics.stepped(&frame);
        self.state.load = frame.load;
        for id in &frame.accepted {
            self.state.sequences.accepted(*id);
        }
        for (id, reject) in &frame.rejected {
            self.state.sequences.rejected(*id, &reject.to_string());
            self.reject(convert::rejection(*id, reject));
        }
        for update in &frame.sequences {
            self.state.sequences.updated(update, &self.metrics);
            let out_of_time = update
                .finish
                .as_ref()
                .is_some_and(|finish| finish.reason == FinishReason::Error);
            if out_of_time && self.readiness.borrow().is_draining() {
                self.state.drained_with_error += 1;
            }
        }
        let load = self.load();
        let frame = convert::step_frame(self.profile.instance.0, frame, load);
        self.respond(Response::Frame(frame));
    }

    fn load(&self) -> kr_proto::worker::Load {
        convert::load(self.state.load, self.state.sequences.unread_tokens())
    }

    fn command(&mut self, command: Command) {
        self.state.unsent.push_back(command);
        self.send_commands();
    }

    fn send_commands(&mut self) {
        while let Some(command) = self.state.unsent.front() {
            let sent = match *command {
                Command::Cancel(id) => self.engine.cancel(id),
                Command::Drain(timeout) => self.handle.drain(timeout),
            };
            if sent == Err(CommandError::Busy) {
                return;
            }
            self.state.unsent.pop_front();
        }
    }

    /// Tells why the engine dropped the sink.
    async fn engine_left(&mut self) -> Result<End, Error> {
        if self.overflowed.is_cancelled() {
            return Err(Error::SlowReader(self.frames.max_capacity()));
        }
        let mut readiness = self.readiness.subscribe();
        let verdict = tokio::select! {
            () = self.replaced.cancelled() => return Err(Error::Replaced),
            verdict = tokio::time::timeout(VERDICT_TIMEOUT, readiness.wait_for(Readiness::is_final)) => verdict,
        };
        match verdict.as_ref().map(|readiness| readiness.as_deref()) {
            Ok(Ok(Readiness::Drained)) => Ok(End::Drained),
            Ok(Ok(Readiness::Failed(reason) | Readiness::NotLoaded(reason))) => {
                Err(Error::EngineFailed(Arc::clone(reason)))
            }
            _ => Err(Error::EngineFailed("it gave no reason".into())),
        }
    }

    async fn finish_draining(mut self) -> Result<(), Error> {
        self.respond(Response::Drained(Drained {
            cancelled: self.state.drained_with_error,
        }));
        for response in std::mem::take(&mut self.state.pending) {
            let permit = tokio::time::timeout(VERDICT_TIMEOUT, self.outgoing.reserve()).await;
            let Ok(Ok(permit)) = permit else {
                return Ok(());
            };
            permit.send(response);
        }
        Ok(())
    }
}
