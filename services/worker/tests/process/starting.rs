//! Starts that succeed and starts that are refused.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::child::{self, Router, Worker, command, end_of, ended};

#[tokio::test]
async fn wrong_usage_exits_with_64_and_a_line_for_each_problem() {
    let rows: [(&[&str], &[&str]); 7] = [
        (&[], &["model", "listen"]),
        (&["--speed", "5"], &["--speed"]),
        (&["--fake", "--listen", "here"], &["listen", "here", "unix:"]),
        (
            &["--fake", "--listen", "tcp:0.0.0.0:0"],
            &["tcp://0.0.0.0:0", "--insecure"],
        ),
        (
            &["--fake", "pace=5", "--listen", "tcp:127.0.0.1:0"],
            &["pace", "step_ms"],
        ),
        (
            &["--model", "/no/such/folder", "--listen", "tcp:127.0.0.1:0"],
            &["/no/such/folder", "--model"],
        ),
        (
            &["--fake", "--listen", "tcp:127.0.0.1:0", "--config", "/no/such.toml"],
            &["/no/such.toml"],
        ),
    ];
    for (arguments, named) in rows {
        let ended = ended(arguments).await;
        assert_eq!(ended.code, Some(64), "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.after < Duration::from_secs(1),
            "{arguments:?} took {:?}",
            ended.after
        );
        for word in named {
            assert!(ended.stderr.contains(word), "{word} is not in: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn an_unknown_variable_is_refused_by_name() {
    let mut command = command(&["--fake", "--listen", "tcp:127.0.0.1:0"]);
    command.env("KR_WORKER__LIMITS__MAX_SEQUENCE", "3");
    let ended = end_of(command).await;
    assert_eq!(ended.code, Some(64));
    assert!(
        ended.stderr.contains("KR_WORKER__LIMITS__MAX_SEQUENCE"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_broken_model_is_refused_within_a_second_naming_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    for text in [
        "{",
        r#"{"architectures": ["TelepathyForCausalLM"], "model_type": "telepathy"}"#,
    ] {
        std::fs::write(&config, text).unwrap();
        let model = folder.path().to_str().unwrap();
        let ended = ended(&["--model", model, "--listen", "tcp:127.0.0.1:0"]).await;
        assert_eq!(ended.code, Some(65), "{}", ended.stderr);
        assert!(ended.after < Duration::from_secs(1), "took {:?}", ended.after);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with("kr-worker: "), "{last}");
        assert!(last.contains("config.json"), "{last}");
    }
}

#[tokio::test]
async fn a_load_that_fails_is_told_to_the_router_before_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Worker::spawn(folder.path(), "load_ms=300,fail_load=1");
    let socket = folder.path().join("w.sock");
    child::exists(&socket).await;
    let refused = Router::try_open(child::unix_channel(socket).await).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("told not to load"), "{refused:?}");
    assert_eq!(child::wait(&mut child).await.code(), Some(65));
}

#[tokio::test]
async fn an_address_in_use_exits_with_64() {
    let worker = Worker::start("").await;
    let listen = format!("unix:{}", worker.socket().display());
    let second = ended(&["--fake", "--listen", &listen]).await;
    assert_eq!(second.code, Some(64), "{}", second.stderr);
    assert!(second.stderr.contains("another process"), "{}", second.stderr);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("tcp:{}", taken.local_addr().unwrap());
    let third = ended(&["--fake", "--listen", &listen]).await;
    assert_eq!(third.code, Some(64), "{}", third.stderr);
    assert!(
        third.stderr.contains(&listen.replace("tcp:", "tcp://")),
        "{}",
        third.stderr
    );
    worker.open().await;
}

#[tokio::test]
async fn a_killed_worker_s_socket_is_replaced() {
    let mut worker = Worker::start("").await;
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    assert!(worker.socket().exists());
    std::fs::remove_file(worker.folder.path().join("address")).unwrap();
    worker.child = Worker::spawn(worker.folder.path(), "");
    worker.address().await;
    worker.open().await;
}

#[tokio::test]
async fn a_tcp_port_of_the_system_s_choice_is_reported_and_health_answers_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("address");
    let mut command = command(&["--fake", "load_ms=1", "--listen", "tcp:127.0.0.1:0", "--address-file"]);
    let child = command.arg(&file).spawn().unwrap();
    let _worker = Worker { child, folder };
    let address = child::address(&file).await;
    let port = address.strip_prefix("tcp://127.0.0.1:").unwrap();
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "kr.worker.v1.WorkerService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    Router::open(channel).await.run(1).await;
}
