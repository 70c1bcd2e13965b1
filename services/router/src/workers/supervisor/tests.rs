//! Supervision of real processes: shell scripts that stand in for the worker's executable.

use std::io::Write as _;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::dispatch::testing::metrics;
use crate::metrics::ModelMetrics;
use crate::workers::fake::{FakeWorker, hello, soon};
use crate::workers::{ExpectedIdentity, Ready, SocketDir};

struct Supervised {
    notices: mpsc::Receiver<Notice>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    directory: TempDir,
}

/// Writes an executable script by way of another process. A file that this process had open for writing while another test
/// forked could not be executed until that test's child runs its own program ("text file busy").
fn write_script(path: &Path, script: &str) {
    let mut writer = std::process::Command::new("/bin/sh")
        .args(["-c", r#"cat > "$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    write!(writer.stdin.take().unwrap(), "#!/bin/sh\n{script}\n").unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Supervises a worker whose executable is a shell script, and which has next to no time to stop.
fn supervise(script: &str, ready_timeout: Duration) -> Supervised {
    supervise_with(
        script,
        Limits {
            ready_timeout,
            stop_grace: Duration::from_millis(100),
        },
    )
}

struct Limits {
    ready_timeout: Duration,
    stop_grace: Duration,
}

fn supervise_with(script: &str, limits: Limits) -> Supervised {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("kr-worker");
    write_script(&program, script);
    let local = LocalWorker {
        program,
        model: directory.path().to_path_buf(),
        options: Vec::new(),
        environment: vec![("KR_TEST_DIR".into(), directory.path().display().to_string())],
        sockets: SocketDir::create(Some(directory.path())).unwrap(),
        stop_grace: limits.stop_grace,
    };
    let (sender, notices) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let supervisor = Supervisor {
        setup: WorkerSetup {
            name: "w".into(),
            origin: WorkerOrigin::Local(local),
            ready_timeout: limits.ready_timeout,
        },
        notices: Notices {
            worker: WorkerIndex(0),
            name: "w".into(),
            sender,
        },
        identity: Arc::new(Identity::new(ExpectedIdentity::default())),
        watchdog: WatchdogLimits::default(),
        metrics: ModelMetrics::new(metrics(), "model".into()).worker("w".into()),
        stop: stop.clone(),
    };
    Supervised {
        notices,
        stop,
        task: tokio::spawn(supervisor.run(|| 0.0)),
        directory,
    }
}

impl Supervised {
    async fn event(&mut self) -> WorkerEvent {
        soon(self.notices.recv()).await.unwrap().event
    }

    async fn backoff(&mut self) -> (LossCause, Arc<str>) {
        loop {
            match self.event().await {
                WorkerEvent::Backoff { message, cause } => return (cause, message),
                WorkerEvent::Starting => {}
                other => panic!("expected Backoff, got {other:?}"),
            }
        }
    }
}

const LONG: Duration = Duration::from_secs(30);
/// Time for a script to do something, before it is too late for it to be ready.
const ENOUGH_TO_START: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_failed_start_is_explained_by_code_and_last_words() {
    let mut worker = supervise("echo 'no weights in /models: run kr model pull' >&2; exit 3", LONG);
    let (cause, message) = worker.backoff().await;
    assert_eq!(cause, LossCause::FailedStart);
    assert!(message.contains("exited with code 3 before it was ready"), "{message}");
    assert!(
        message.ends_with("no weights in /models: run kr model pull"),
        "{message}"
    );
}

#[tokio::test]
async fn a_model_that_cannot_be_served_is_told_apart_by_the_exit_code() {
    let mut worker = supervise("exit 65", LONG);
    let (cause, message) = worker.backoff().await;
    assert_eq!(cause, LossCause::ModelNotLoaded, "{message}");
}

#[tokio::test]
async fn a_failed_start_is_tried_again() {
    let mut worker = supervise("kill -9 $$", LONG);
    for _ in 0..2 {
        let (cause, message) = worker.backoff().await;
        assert_eq!(cause, LossCause::FailedStart);
        assert!(message.contains("signal 9"), "{message}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let mut worker = supervise("", LONG);
    std::fs::remove_file(worker.directory.path().join("kr-worker")).unwrap();
    let (cause, message) = loop {
        let (cause, message) = worker.backoff().await;
        if message.contains("cannot start") {
            break (cause, message);
        }
    };
    assert_eq!(cause, LossCause::FailedStart);
    assert!(message.contains("kr-worker"), "{message}");
}

#[tokio::test]
async fn a_worker_that_never_listens_is_killed() {
    let mut worker = supervise("echo loading >&2; exec cat", ENOUGH_TO_START);
    let (cause, message) = worker.backoff().await;
    assert_eq!(cause, LossCause::FailedStart);
    assert!(
        message.contains("not ready within 1s; its last words: loading"),
        "{message}"
    );
}

#[tokio::test]
async fn a_worker_gets_its_model_socket_and_lifeline() {
    let script = r#"echo "$@" > "$KR_TEST_DIR/arguments"; cat > "$KR_TEST_DIR/lifeline"; exit 5"#;
    let mut worker = supervise(script, ENOUGH_TO_START);
    let (_, message) = worker.backoff().await;
    assert!(
        message.contains("not ready"),
        "the lifeline was not held open: {message}"
    );
    let arguments = std::fs::read_to_string(worker.directory.path().join("arguments")).unwrap();
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    assert_eq!(
        arguments[0..2],
        ["--model", &worker.directory.path().display().to_string()]
    );
    assert!(arguments[3].starts_with("unix:/"), "{arguments:?}");
    assert_eq!(arguments[4..], ["--lifeline-fd", "0", "--name", "w"]);
}

#[tokio::test]
async fn a_worker_that_ignores_sigterm_is_killed_when_stopped() {
    let script = r#"trap '' TERM; echo $$ > "$KR_TEST_DIR/pid.new"; mv "$KR_TEST_DIR/pid.new" "$KR_TEST_DIR/pid"; while :; do read -r _ || :; done"#;
    let mut worker = supervise(script, LONG);
    assert!(matches!(worker.event().await, WorkerEvent::Starting));
    let pid = soon(written(&worker.directory.path().join("pid"))).await;
    worker.stop.cancel();
    soon(&mut worker.task).await.unwrap();
    assert!(matches!(worker.event().await, WorkerEvent::Stopped));
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}

/// A process that stays, while the test itself answers on its socket.
const STAYS: &str = r#"echo "$$ $4" > "$KR_TEST_DIR/new"; mv "$KR_TEST_DIR/new" "$KR_TEST_DIR/started"; exec cat"#;

async fn served(worker: &mut Supervised) -> (FakeWorker, rustix::process::Pid) {
    let started = soon(written(&worker.directory.path().join("started"))).await;
    let (pid, listen) = started.trim().split_once(' ').unwrap();
    let socket = listen.strip_prefix("unix:").unwrap().into();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    (FakeWorker::start_at(socket, hello("m", "t")), pid)
}

impl Supervised {
    /// Dropping what this returns ends the session.
    async fn ready(&mut self) -> Ready {
        assert!(matches!(self.event().await, WorkerEvent::Starting));
        match self.event().await {
            WorkerEvent::Ready(ready) => ready,
            other => panic!("expected Ready, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_ready_worker_that_is_killed_is_lost_by_a_signal() {
    let mut worker = supervise(STAYS, LONG);
    let (mut fake, pid) = served(&mut worker).await;
    let _session = fake.session().await;
    let _ready = worker.ready().await;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(matches!(worker.event().await, WorkerEvent::Lost));
    let (cause, message) = worker.backoff().await;
    assert_eq!(cause, LossCause::Signal);
    assert!(message.starts_with("it was ended by signal 9"), "{message}");
}

#[tokio::test]
async fn a_local_worker_whose_session_breaks_is_recycled() {
    let mut worker = supervise(STAYS, LONG);
    let (mut fake, pid) = served(&mut worker).await;
    drop(fake.session().await);
    let _ready = worker.ready().await;
    assert!(matches!(worker.event().await, WorkerEvent::Lost));
    assert_eq!(worker.backoff().await.0, LossCause::Disconnected);
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}

#[tokio::test]
async fn a_local_worker_is_drained_before_it_is_stopped() {
    use kr_proto::worker::session_request::Message as Request;
    use kr_proto::worker::{Drained, session_response};
    // With less grace the supervisor might end the process before the test has looked at it.
    let limits = Limits {
        ready_timeout: LONG,
        stop_grace: LONG,
    };
    let mut worker = supervise_with(STAYS, limits);
    let (mut fake, pid) = served(&mut worker).await;
    let mut session = fake.session().await;
    let _ready = worker.ready().await;
    worker.stop.cancel();
    assert!(matches!(session.next().await, Some(Request::Drain(_))));
    rustix::process::test_kill_process(pid).unwrap();
    session
        .send(session_response::Message::Drained(Drained::default()))
        .await;
    soon(&mut worker.task).await.unwrap();
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}

/// Waits for another process to write a file.
async fn written(path: &Path) -> String {
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text;
        }
        tokio::task::yield_now().await;
    }
}
