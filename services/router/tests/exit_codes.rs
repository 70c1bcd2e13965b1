//! What a wrong configuration looks like from outside: exit code 64 at once, one line for each problem, nothing bound.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests fail by panicking"
)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder that is a model's as far as the router looks, with a tokenizer of one token.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,
        "decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
                 "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0},"merges":[]}}"#;
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id":0}"#).unwrap();
    folder
}

fn router(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kr-router"))
        .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .args(arguments)
        .env_remove("KR_ROUTER_CONFIG")
        // Any file does for a worker that is never started.
        .env("KR_ROUTER__WORKER__BINARY", env!("CARGO_BIN_EXE_kr-router"))
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it serves instead of ending");
        }
        std::thread::yield_now();
    }
    child.wait_with_output().unwrap()
}

/// Asserts exit code 64 and exactly one line, which says all of `named`.
fn refused(output: &Output, named: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for name in named {
        assert!(said.contains(name), "{name} is not in: {said}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let model = model();
    let file = model.path().join("router.toml");
    std::fs::write(&file, "[queue]\ncapacity = 4\ncapasity = 5\n").unwrap();
    let output = router(&["--model", text(model.path()), "--config", text(&file)], &[]);
    refused(&output, &["queue.capasity", "router.toml:3", "capacity"]);
}

#[test]
fn a_wrong_type_is_refused_with_its_variable() {
    let model = model();
    let variables = [("KR_ROUTER__QUEUE__CAPACITY", "lots")];
    let output = router(&["--model", text(model.path())], &variables);
    refused(&output, &["queue.capacity", "lots", "KR_ROUTER__QUEUE__CAPACITY"]);
}

#[test]
fn a_missing_model_folder_is_refused_with_its_flag() {
    let output = router(&["--model", "/nowhere/model"], &[]);
    refused(&output, &["models.0.path", "/nowhere/model", "--model"]);
}

#[test]
fn a_broken_tokenizer_is_refused() {
    let model = model();
    std::fs::write(model.path().join("tokenizer.json"), "{").unwrap();
    let output = router(&["--model", text(model.path())], &[]);
    refused(&output, &["models.0.path", "tokenizer.json"]);
}

#[test]
fn a_taken_port_is_refused() {
    let model = model();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let variables = [("KR_ROUTER__MODELS", format!("[{{ path = {:?} }}]", text(model.path())))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kr-router"));
    command
        .args(["--grpc", &address, "--http", "127.0.0.1:0"])
        .env("KR_ROUTER__WORKER__BINARY", env!("CARGO_BIN_EXE_kr-router"))
        .envs(variables);
    refused(&command.output().unwrap(), &["grpc.address", &address, "--grpc"]);
}

#[test]
fn an_address_for_everybody_is_refused_unless_meant() {
    let model = model();
    let variables = [("KR_ROUTER__GRPC__ADDRESS", "0.0.0.0:0")];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kr-router"));
    command
        .args(["--model", text(model.path()), "--check-config"])
        .env("KR_ROUTER__WORKER__BINARY", env!("CARGO_BIN_EXE_kr-router"))
        .envs(variables);
    refused(
        &command.output().unwrap(),
        &["grpc.address", "0.0.0.0:0", "--insecure", "KR_ROUTER__GRPC__ADDRESS"],
    );
    let meant = command.arg("--insecure").output().unwrap();
    assert_eq!(
        meant.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&meant.stderr)
    );
}

#[test]
fn wrong_usage_is_64_too_and_help_is_0() {
    assert_eq!(router(&["--no-such-flag"], &[]).status.code(), Some(64));
    assert_eq!(router(&["--help"], &[]).status.code(), Some(0));
}

#[test]
fn a_configuration_can_be_checked_and_printed_without_serving() {
    let model = model();
    let checked = router(&["--model", text(model.path()), "--check-config"], &[]);
    assert_eq!(
        (checked.status.code(), checked.stdout.as_slice()),
        (Some(0), b"configuration is valid\n".as_slice())
    );
    let printed = router(&["--model", text(model.path()), "--print-config", "--with-origin"], &[]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.contains("grpc.address = \"127.0.0.1:0\"  # --grpc"),
        "{printed}"
    );
    assert!(printed.contains("queue.capacity = 256  # default"), "{printed}");
}
