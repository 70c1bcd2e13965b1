//! `kr generate`, `kr bench` and `kr model list` against a server.

use kr_proto::serve::generate_request::Input;

use crate::fake_server::{ENDLESS, FLOOD, FakeServer, REFUSED};
use crate::program::{Home, Running, run, run_with};

async fn prompt(server: &FakeServer) -> String {
    match server.last_generate().await.0.input {
        Some(Input::Prompt(prompt)) => prompt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_prompt_comes_from_an_argument_a_file_or_standard_input() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let generate = ["generate", "--server", server.address()];
    let ran = run(home.kr(&generate).arg("one two")).await;
    assert!(
        ran.stderr.contains("3 tokens") && ran.stderr.contains("finish: stop"),
        "{ran:?}"
    );
    assert_eq!(ran.success(), "one two\n");
    let file = home.path().join("prompt.txt");
    std::fs::write(&file, "from a\nfile").unwrap();
    assert_eq!(
        run(home.kr(&generate).arg("--file").arg(&file)).await.success(),
        "from a\nfile\n"
    );
    run_with(&mut home.kr(&generate), "from a\npipe").await.success();
    assert_eq!(prompt(&server).await, "from a\npipe");
    run_with(home.kr(&generate).arg("-"), "from a dash").await.success();
    assert_eq!(prompt(&server).await, "from a dash");
}

#[tokio::test]
async fn settings_and_the_key_reach_the_server() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut command = home.kr(&[
        "generate",
        "hi",
        "--temperature",
        "0.5",
        "--seed",
        "7",
        "--stop",
        "a",
        "--stop",
        "b",
        "--presence-penalty",
        "-0.5",
        "--repetition-penalty",
        "1.1",
        "-n",
        "3",
        "--cache-salt",
        "mine",
        "--bypass-prefix-cache",
    ]);
    run(command.env("KR_SERVER", server.address()).env("KR_API_KEY", "secret"))
        .await
        .success();
    let (request, authorization) = server.last_generate().await;
    let parameters = request.parameters.unwrap();
    assert_eq!((parameters.temperature, parameters.seed), (Some(0.5), Some(7)));
    assert_eq!(parameters.stop, ["a", "b"]);
    assert_eq!(
        (parameters.presence_penalty, parameters.repetition_penalty, parameters.n),
        (Some(-0.5), Some(1.1), Some(3))
    );
    assert_eq!(
        (parameters.cache_salt.as_deref(), parameters.bypass_prefix_cache),
        (Some("mine"), Some(true))
    );
    assert_eq!(authorization.as_deref(), Some("Bearer secret"));
}

#[tokio::test]
async fn json_is_one_object_with_the_keys_scripts_read() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let stdout = run(&mut home.kr(&["generate", "--json", "one two", "--server", server.address()]))
        .await
        .success();
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["text"], "one two");
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["receipt"]["queue_time"], 0.002);
    assert_eq!(answer["receipt"]["seed"], 7);

    let bench = [
        "bench",
        "--json",
        "--requests",
        "3",
        "--concurrency",
        "2",
        "--server",
        server.address(),
    ];
    let stdout = run(&mut home.kr(&bench)).await.success();
    let figures: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (figures["requests"].as_u64(), figures["errors"].as_u64()),
        (Some(3), Some(0))
    );
    assert_eq!(figures["generated_tokens"], 9);
    for key in ["total_tokens_per_s", "decode_tokens_per_s", "duration_s"] {
        assert!(figures[key].is_number(), "{key}: {figures}");
    }
    assert!(
        figures["ttft_ms"]["p95"].is_number() && figures["worker_messages_per_token"].is_null(),
        "{figures}"
    );

    let stdout = run(&mut home.kr(&["model", "list", "--json", "--server", server.address()]))
        .await
        .success();
    let models: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (models[0]["name"].as_str(), models[0]["state"].as_str()),
        (Some("echo"), Some("ready"))
    );
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let error = run(&mut home.kr(&["generate", REFUSED, "--server", server.address()]))
        .await
        .failure(1);
    assert_eq!(
        error,
        "kr: INVALID_ARGUMENT: 1 field is invalid\n  parameters.top_p: is 2, allowed is up to 1\n"
    );
}

#[tokio::test]
async fn without_a_server_the_exit_code_is_69_and_the_cure_is_named() {
    let home = Home::new();
    let unused = {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let server = format!("http://{unused}");
    for command in [["generate", "hi"].as_slice(), &["chat"], &["bench"], &["model", "list"]] {
        let error = run(home.kr(command).args(["--server", &server])).await.failure(69);
        let parts = ["no server answers at", &server, "kr-router --model", "refused"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = run(&mut home.kr(&["generate", "hi", "--server", "not an address"]))
        .await
        .failure(1);
    assert!(error.contains("http://HOST:PORT"), "{error}");
}

#[tokio::test]
async fn an_interrupt_cancels_the_call_and_exits_with_130() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut running = Running::start(&mut home.kr(&["generate", ENDLESS, "--server", server.address()]));
    running.expect(ENDLESS).await;
    running.interrupt().await;
    server.cancelled().await;
    assert_eq!(running.finish().await.code, Some(130));
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_answer_quietly() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut running = Running::start(&mut home.kr(&["generate", FLOOD, "--server", server.address()]));
    running.expect(FLOOD).await;
    running.stop_reading();
    server.cancelled().await;
    let ran = running.finish().await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn no_colours_leave_where_nobody_sees_them() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let ran = run(&mut home.kr(&["generate", "hi", "--server", server.address()])).await;
    assert!(!ran.stderr.contains('\x1b') && !ran.stdout.contains('\x1b'), "{ran:?}");
}
