//! A wrong configuration: exit code 64 within a second or so, before anything is bound, and a line for each problem with
//! key, origin and cure.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::time::Duration;

use kr_integration_tests::{Program, Ran, eventually, program, real_model, run, workspace};
use tempfile::TempDir;
use tokio::process::Command;

/// Starting a program of ours and reading its configuration takes no longer, even on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

fn router(folder: &TempDir, toml: &str) -> Command {
    let file = folder.path().join("router.toml");
    std::fs::write(&file, toml).unwrap();
    let mut command = Command::new(program("kr-router"));
    command.arg("--config").arg(file);
    command
}

fn demo() -> String {
    let path = real_model("SmolLM2-135M-Instruct");
    format!("[[models]]\nname = \"demo\"\npath = {path:?}\nfake = \"\"\n[[models.workers]]\nspawn = 1\n")
}

fn assert_refused(ran: &Ran, program: &str, problems: &[&[&str]]) {
    assert_eq!(ran.status.code(), Some(64), "{}", ran.stderr);
    assert!(ran.took < AT_ONCE, "it took {:?}", ran.took);
    let start = format!("{program}: ");
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with(&start)).collect();
    assert_eq!(lines.len(), problems.len(), "{}", ran.stderr);
    for problem in problems {
        let named = |line: &&str| problem.iter().all(|part| line.contains(part));
        assert!(
            lines.iter().any(named),
            "no line with all of {problem:?} in:\n{}",
            ran.stderr
        );
    }
}

#[tokio::test]
async fn unknown_keys_and_wrong_values_are_all_named_with_their_origin() {
    let folder = tempfile::tempdir().unwrap();
    let toml = format!("[queue]\ncapacity = \"many\"\ncapasity = 5\n{}", demo());
    let mut command = router(&folder, &toml);
    let ran = run(command
        .env("KR_ROUTER__LIMITS__MAX_IN_FLIGHT", "-1")
        .env("KR_ROUTER__QUEUES__X", "1"))
    .await;
    let problems: [&[&str]; 4] = [
        &["queue.capacity", "many", "router.toml:2"],
        &["queue.capasity", "router.toml:3", "capacity"],
        &["limits.max_in_flight", "KR_ROUTER__LIMITS__MAX_IN_FLIGHT"],
        &["queues", "KR_ROUTER__QUEUES__X"],
    ];
    assert_refused(&ran, "kr-router", &problems);
}

#[tokio::test]
async fn models_and_files_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "[[models]]\nname = \"gone\"\npath = \"/nowhere/at/all\"\n[[models.workers]]\nspawn = 1\n";
    let ran = run(&mut router(&folder, toml)).await;
    assert_refused(&ran, "kr-router", &[&["models", "/nowhere/at/all"]]);
    let ran = run(Command::new(program("kr-router")).args(["--config", "/nowhere/router.toml"])).await;
    assert_refused(&ran, "kr-router", &[&["/nowhere/router.toml"]]);
    let ran = run(&mut router(&folder, "[[models]\nname=")).await;
    assert_refused(&ran, "kr-router", &[&["router.toml"]]);
    let mut worker = Command::new(program("kr-worker"));
    let ran = run(worker.args(["--model", "/nowhere/at/all", "--listen", "unix:/tmp/x.sock"])).await;
    assert_refused(&ran, "kr-worker", &[&["model", "/nowhere/at/all", "--model"]]);
}

#[tokio::test]
async fn addresses_that_others_can_reach_need_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(router(&folder, &demo()).args(["--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0"])).await;
    assert_refused(&ran, "kr-router", &[&["grpc", "0.0.0.0:0", "--insecure"]]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for [taken, free] in [["--grpc", "--http"], ["--http", "--grpc"]] {
        let ran = run(router(&folder, &demo()).args([taken, &address, free, "127.0.0.1:0"])).await;
        assert_refused(&ran, "kr-router", &[&[&address, "in use"]]);
    }
    let mut worker = Command::new(program("kr-worker"));
    let ran = run(worker.args(["--fake", "", "--listen", &format!("tcp://{address}")])).await;
    assert_refused(&ran, "kr-worker", &[&[&address, "in use"]]);
}

#[tokio::test]
async fn the_socket_of_a_dead_worker_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("worker.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "a socket nobody listens on");
    let mut command = Command::new(program("kr-worker"));
    let mut worker = Program::start(command.args(["--fake", "", "--listen", &format!("unix:{}", socket.display())]));
    eventually("a worker that listens", || {
        let ended = worker.try_wait();
        assert!(ended.is_none(), "{}", worker.output());
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.ok() }
    })
    .await;
}

#[tokio::test]
async fn kr_checks_and_prints_a_configuration_with_origins() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("router.toml");
    std::fs::write(&configuration, demo()).unwrap();
    let kr = |arguments: &[&str]| {
        let mut command = Command::new(program("kr"));
        command
            .arg("config")
            .args(arguments)
            .arg("--config")
            .arg(&configuration);
        command.env("KR_ROUTER__QUEUE__AGEING", "7s");
        async move { run(&mut command).await }
    };
    assert!(kr(&["check"]).await.success().contains("valid"));
    let printed = kr(&["print", "--with-origin"]).await.success();
    let line = |key: &str| {
        printed
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_else(|| panic!("{key}: {printed}"))
    };
    assert!(line("queue.capacity = 256").ends_with("# default"), "{printed}");
    assert!(
        line("queue.ageing = \"7s\"").ends_with("KR_ROUTER__QUEUE__AGEING"),
        "{printed}"
    );
    assert!(line("name = \"demo\"").contains("router.toml:2"), "{printed}");
    std::fs::write(&configuration, "[queue]\ncapacity = 0\n").unwrap();
    let ran = kr(&["check"]).await;
    assert_eq!(ran.status.code(), Some(64), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("queue.capacity") && ran.stderr.contains("models"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn the_example_names_only_settings_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(workspace().join("deploy/router.example.toml")).unwrap();
    // Its models are on no other machine.
    let paths = ["\"/srv/models/remote\"", "\"SmolLM2-135M-Instruct\""];
    let model = format!("{:?}", real_model("SmolLM2-135M-Instruct"));
    let example = paths.iter().fold(example, |text, path| text.replace(path, &model));
    let ran = run(router(&folder, &example).arg("--check-config")).await;
    assert!(ran.success().contains("valid"));
}
