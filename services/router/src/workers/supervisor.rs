//! Keeps one worker alive: starts or reaches it, runs its session, and tries again with growing delays when it is lost.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::session::{Session, SessionEnd, Terms};
use super::spawn::{Exit, Process};
use super::{
    Address, Error, LocalWorker, LossCause, Notice, WatchdogLimits, WorkerEvent, WorkerOrigin, WorkerSetup, backoff,
    connect,
};
use crate::clock;
use crate::metrics::WorkerMetrics;
use crate::policy::WorkerIndex;

/// Between two looks whether a started worker listens yet.
const LISTENING_INTERVAL: Duration = Duration::from_millis(20);
/// For what a process that ended had written before.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// Between a broken connection and the exit that explains it.
const EXIT_AFTER_BREAK: Duration = Duration::from_millis(500);

/// Where one worker's news go.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    pub(crate) worker: WorkerIndex,
    pub(crate) name: Arc<str>,
    pub(crate) sender: mpsc::Sender<Notice>,
}

impl Notices {
    /// Waits while the dispatcher is behind. Without a dispatcher nobody needs to know: the supervisor is about to be
    /// dropped too.
    pub(super) async fn send(&self, event: WorkerEvent) {
        let _ = self
            .sender
            .send(Notice {
                worker: self.worker,
                event,
            })
            .await;
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) setup: WorkerSetup,
    pub(crate) notices: Notices,
    pub(crate) identity: Arc<Identity>,
    pub(crate) watchdog: WatchdogLimits,
    pub(crate) metrics: WorkerMetrics,
    /// Ends the worker, if it is a local one, and the supervision.
    pub(crate) stop: CancellationToken,
}

/// How one life of a worker ended.
enum Outcome {
    Stopped,
    Lost {
        cause: LossCause,
        message: String,
        ready_since: Option<Instant>,
    },
}

impl Outcome {
    fn failed_start(error: &Error) -> Self {
        Self::Lost {
            cause: match error.is_models_fault() {
                true => LossCause::ModelNotLoaded,
                false => LossCause::FailedStart,
            },
            message: kr_boot::exit::with_causes(error),
            ready_since: None,
        }
    }
}

impl Supervisor {
    /// Runs until it is stopped. `random` gives numbers uniform in [0, 1).
    ///
    /// # Cancellation
    /// Dropping this kills a local worker at once.
    pub(crate) async fn run(self, mut random: impl FnMut() -> f64) {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            self.notices.send(WorkerEvent::Starting).await;
            let Outcome::Lost {
                cause,
                message,
                ready_since,
            } = self.live().await
            else {
                break;
            };
            let sound = ready_since.is_some_and(|since| clock::now() - since >= backoff::SOUND_AFTER);
            failures = if sound { 1 } else { failures + 1 };
            let delay = backoff::delay(failures, random());
            tracing::warn!(worker = %self.setup.name, ?cause, message, failures, ?delay, "worker lost");
            let message = message.into();
            self.notices.send(WorkerEvent::Backoff { message, cause }).await;
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.notices.send(WorkerEvent::Stopped).await;
    }

    async fn live(&self) -> Outcome {
        match &self.setup.origin {
            WorkerOrigin::Local(local) => match local.sockets.socket(&self.setup.name) {
                Ok(socket) => {
                    let outcome = self.live_local(local, socket.clone()).await;
                    // A worker that was killed could not remove it. Where it could, there is none.
                    let _ = std::fs::remove_file(&socket);
                    outcome
                }
                Err(error) => Outcome::failed_start(&error),
            },
            WorkerOrigin::Remote(address) => self.live_remote(address).await,
        }
    }

    async fn live_local(&self, local: &LocalWorker, socket: PathBuf) -> Outcome {
        let mut process = match Process::start(local, &self.setup.name, &socket) {
            Ok(process) => process,
            Err(error) => return Outcome::failed_start(&error),
        };
        let address = Address::Unix(socket);
        let opened = tokio::select! {
            () = self.stop.cancelled() => None,
            exit = process.wait() => Some(Err(Opening::Exited(exit))),
            opened = self.open_until_ready(&address) => Some(opened.map_err(Opening::Failed)),
        };
        let session = match opened {
            None => {
                process.stop(local.stop_grace).await;
                return Outcome::Stopped;
            }
            Some(Ok(session)) => session,
            Some(Err(failure)) => return Outcome::failed_start(&self.explain(failure, process).await),
        };
        let ready_since = clock::now();
        let end = self.run_local(session, local, &mut process).await;
        self.notices.send(WorkerEvent::Lost).await;
        let SessionEnd::Lost { cause, message } = end else {
            process.stop(local.stop_grace).await;
            return Outcome::Stopped;
        };
        let (cause, message) = settle(&mut process, cause, message).await;
        Outcome::Lost {
            cause,
            message,
            ready_since: Some(ready_since),
        }
    }

    async fn run_local(&self, session: Session, local: &LocalWorker, process: &mut Process) -> SessionEnd {
        let mut running = pin!(session.run(self.terms(Some(local.stop_grace))));
        tokio::select! {
            end = &mut running => end,
            _ = process.wait() => {
                tokio::time::timeout(LAST_FRAMES, running).await.unwrap_or(SessionEnd::Lost {
                    cause: LossCause::Disconnected,
                    message: String::new(),
                })
            }
        }
    }

    /// Says why a worker never became ready; it is gone afterwards.
    async fn explain(&self, failure: Opening, mut process: Process) -> Error {
        match failure {
            Opening::Exited(exit) => Error::EndedEarly {
                status: exit.status,
                code: exit.code,
                last_line: process.last_line().await,
            },
            Opening::Failed(Error::NotReady { timeout, .. }) => {
                process.kill().await;
                let last_line = process.last_line().await;
                Error::NotReady { timeout, last_line }
            }
            Opening::Failed(error) => {
                process.kill().await;
                error
            }
        }
    }

    async fn live_remote(&self, address: &Address) -> Outcome {
        let opened = tokio::select! {
            () = self.stop.cancelled() => return Outcome::Stopped,
            opened = tokio::time::timeout(self.setup.ready_timeout, self.open(address)) => opened,
        };
        let session = match opened {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Outcome::failed_start(&error),
            Err(_) => return Outcome::failed_start(&self.not_ready()),
        };
        let ready_since = clock::now();
        let end = session.run(self.terms(None)).await;
        self.notices.send(WorkerEvent::Lost).await;
        match end {
            SessionEnd::Stopped => Outcome::Stopped,
            SessionEnd::Lost { cause, message } => Outcome::Lost {
                cause,
                message,
                ready_since: Some(ready_since),
            },
        }
    }

    fn terms(&self, drain: Option<Duration>) -> Terms<'_> {
        Terms {
            notices: &self.notices,
            watchdog: self.watchdog,
            stop: &self.stop,
            drain,
        }
    }

    fn not_ready(&self) -> Error {
        Error::NotReady {
            timeout: self.setup.ready_timeout,
            last_line: String::new(),
        }
    }

    async fn open(&self, address: &Address) -> Result<Session, Error> {
        let channel = connect::connect(address).await?;
        let session = Session::open(channel, &self.identity, self.metrics.clone()).await?;
        let profile = session.profile();
        tracing::info!(
            worker = %self.setup.name,
            pid = profile.process_id,
            load_time = ?profile.load_time,
            fingerprint = %profile.fingerprint_text,
            "worker ready"
        );
        Ok(session)
    }

    /// Opens a session with a worker that has just been started, once it listens.
    async fn open_until_ready(&self, address: &Address) -> Result<Session, Error> {
        let opening = async {
            loop {
                match self.open(address).await {
                    Err(Error::Connect { .. }) => tokio::time::sleep(LISTENING_INTERVAL).await,
                    opened => return opened,
                }
            }
        };
        let opened = tokio::time::timeout(self.setup.ready_timeout, opening).await;
        opened.unwrap_or_else(|_| Err(self.not_ready()))
    }
}

/// Why a started worker did not become ready.
enum Opening {
    Exited(Exit),
    Failed(Error),
}

/// Makes sure that a worker whose session was lost is gone, and says what happened to it.
async fn settle(process: &mut Process, cause: LossCause, message: String) -> (LossCause, String) {
    if cause == LossCause::Disconnected
        && let Some(exit) = process.wait_at_most(EXIT_AFTER_BREAK).await
    {
        let last_line = process.last_line().await;
        let last_words = if last_line.is_empty() {
            String::new()
        } else {
            format!("; its last words: {last_line}")
        };
        return (exit.cause, format!("it {}{last_words}", exit.status));
    }
    process.kill().await;
    (cause, message)
}

#[cfg(test)]
mod tests;
