//! `kr model pull` from a hub that behaves and misbehaves.

use std::fs;
use std::path::PathBuf;

use axum::http::StatusCode;

use crate::fake_hub::{COMMIT, FakeHub, Faults, TOKEN, WEIGHTS_BYTES, weights};
use crate::program::{Home, Ran, run};

const MODELS: &str = ".cache/kr-serve-mlx/models";

async fn pull(home: &Home, hub: &FakeHub, arguments: &[&str]) -> Ran {
    let mut command = home.kr(&["model", "pull", "--endpoint", &hub.endpoint]);
    run(command.args(arguments)).await
}

fn folder(home: &Home, name: &str) -> PathBuf {
    home.path().join(MODELS).join(name)
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn assert_whole(home: &Home, seed: usize) {
    let folder = folder(home, "model");
    assert!(
        fs::read(folder.join("model.safetensors")).unwrap() == weights(seed),
        "other bytes than published"
    );
}

#[tokio::test]
async fn the_files_that_serving_needs_arrive_and_nothing_else() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    let stdout = pull(&home, &hub, &["org/model"]).await.success();
    let folder = folder(&home, "model");
    assert_eq!(stdout, format!("model: {}\n", folder.display()));
    let expected = [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "pull.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&folder), expected);
    assert_whole(&home, 1);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("pull.json")).unwrap()).unwrap();
    assert_eq!(
        (record["repository"].as_str(), record["commit"].as_str()),
        (Some("org/model"), Some(COMMIT))
    );
    let listed = run(&mut home.kr(&["model", "list"])).await.success();
    assert!(listed.starts_with("model "), "{listed}");
}

#[tokio::test]
async fn a_model_that_is_there_is_not_fetched_again() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    pull(&home, &hub, &["org/model@v1"]).await.success();
    pull(&home, &hub, &["org/model@v1"]).await.success();
    assert_eq!(hub.requests("listing").len(), 1);
    let error = pull(&home, &hub, &["org/model"]).await.failure(1);
    assert!(
        error.contains("holds org/model@v1") && error.contains("--as"),
        "{error}"
    );
    pull(&home, &hub, &["org/model", "--as", "other"]).await.success();
    assert!(folder(&home, "other").join("config.json").exists());
}

#[tokio::test]
async fn shards_of_the_index_are_fetched_and_others_are_not() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    hub.remove("model.safetensors");
    for name in ["a.safetensors", "b.safetensors", "consolidated.safetensors"] {
        hub.put(name, weights(name.len()));
    }
    let index = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    hub.put("model.safetensors.index.json", index);
    pull(&home, &hub, &["org/model"]).await.success();
    let names = names(&folder(&home, "model"));
    assert!(names.contains(&"a.safetensors".into()) && names.contains(&"model.safetensors.index.json".into()));
    assert!(!names.contains(&"consolidated.safetensors".into()));
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_broke_off() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    hub.fail(Faults {
        cuts: [1_000_000, 500_000].into(),
        ..Faults::default()
    });
    pull(&home, &hub, &["org/model"]).await.success();
    assert_whole(&home, 1);
    let ranges: Vec<_> = hub
        .requests("store/model.safetensors")
        .into_iter()
        .map(|seen| seen.range)
        .collect();
    assert_eq!(ranges.len(), 3);
    let starts: Vec<usize> = ranges
        .iter()
        .flatten()
        .map(|range| range[6..range.len() - 1].parse().unwrap())
        .collect();
    assert!(
        0 < starts[0] && starts[0] < starts[1] && starts[1] < WEIGHTS_BYTES,
        "{starts:?}"
    );
}

#[tokio::test]
async fn a_pull_that_failed_is_continued_by_the_next_and_unknown_until_then() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    hub.fail(Faults {
        cuts: [2_000_000, 0, 0, 0, 0].into(),
        ..Faults::default()
    });
    let error = pull(&home, &hub, &["org/model"]).await.failure(1);
    assert!(
        error.contains("model.safetensors stopped coming at") && error.contains("run the same command"),
        "{error}"
    );
    assert!(!folder(&home, "model").exists());
    let listed = run(&mut home.kr(&["model", "list"])).await.success();
    assert!(listed.starts_with("no models"), "{listed}");
    let before = hub.requests("store/model.safetensors").len();
    pull(&home, &hub, &["org/model"]).await.success();
    assert_whole(&home, 1);
    let after = hub.requests("store/model.safetensors");
    assert_eq!(after.len(), before + 1);
    assert!(after[before].range.is_some(), "it began at the beginning");
    assert_eq!(
        hub.requests("hub/tokenizer.json").len(),
        1,
        "a complete file was fetched again"
    );
}

#[tokio::test]
async fn a_server_that_cannot_continue_files_sends_them_again() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    hub.fail(Faults {
        cuts: [1_000_000].into(),
        ignores_ranges: true,
        ..Faults::default()
    });
    pull(&home, &hub, &["org/model"]).await.success();
    assert_whole(&home, 1);
}

#[tokio::test]
async fn other_bytes_than_published_are_refused_and_not_kept() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    hub.fail(Faults {
        corrupt: true,
        ..Faults::default()
    });
    let error = pull(&home, &hub, &["org/model"]).await.failure(1);
    assert!(
        error.contains("model.safetensors has SHA-256") && error.contains("the hub says"),
        "{error}"
    );
    assert!(!folder(&home, "model").exists());
    hub.fail(Faults::default());
    pull(&home, &hub, &["org/model"]).await.success();
    let requests = hub.requests("store/model.safetensors");
    assert_eq!(requests.last().unwrap().range, None, "wrong bytes were built upon");
    assert_whole(&home, 1);
}

#[tokio::test]
async fn each_refusal_has_its_cause_and_cure() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    let error = pull(&home, &hub, &["org/nothing"]).await.failure(1);
    assert!(
        error.contains("has no model org/nothing") && error.contains("check the name"),
        "{error}"
    );
    let error = pull(&home, &hub, &["org/model@v9"]).await.failure(1);
    assert!(error.contains("org/model has no revision v9"), "{error}");
    let refusals = [
        (
            StatusCode::FORBIDDEN,
            "GatedRepo",
            ["is gated: accept its terms at", "HF_TOKEN"],
        ),
        (
            StatusCode::UNAUTHORIZED,
            "",
            ["refuses callers without a token (status 401)", "HF_TOKEN"],
        ),
        (StatusCode::GONE, "", ["answered with status 410", "try again later"]),
    ];
    for (status, word, parts) in refusals {
        hub.fail(Faults {
            files_refused: Some((status, word)),
            ..Faults::default()
        });
        let error = pull(&home, &hub, &["org/model"]).await.failure(1);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = pull(&home, &hub, &["model"]).await.failure(2);
    assert!(error.contains("ORG/NAME"), "{error}");
}

#[tokio::test]
async fn no_network_and_no_space_are_named() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    let unused = {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let endpoint = format!("http://{unused}");
    let error = run(&mut home.kr(&["model", "pull", "org/model", "--endpoint", &endpoint]))
        .await
        .failure(69);
    assert!(
        error.contains(&format!("cannot reach the hub at {endpoint}")) && error.contains("refused"),
        "{error}"
    );
    hub.fail(Faults {
        claimed_size: Some(1 << 60),
        ..Faults::default()
    });
    let error = pull(&home, &hub, &["org/model"]).await.failure(1);
    assert!(error.contains("are needed; make room"), "{error}");
    hub.remove("tokenizer.json");
    let error = pull(&home, &hub, &["org/model"]).await.failure(1);
    assert!(error.contains("has no tokenizer.json"), "{error}");
}

#[tokio::test]
async fn a_token_goes_to_the_hub_alone_and_is_never_shown() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    let file = home.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let ran = pull(&home, &hub, &["org/model", "--token-file", file.to_str().unwrap()]).await;
    assert!(!format!("{ran:?}").contains(TOKEN));
    ran.success();
    let bearer = Some(format!("Bearer {TOKEN}"));
    assert_eq!(hub.requests("listing")[0].authorization, bearer);
    assert_eq!(hub.requests("hub/model.safetensors")[0].authorization, bearer);
    assert_eq!(
        hub.requests("store/model.safetensors")[0].authorization,
        None,
        "the store saw the token"
    );
    let mut command = home.kr(&["model", "pull", "org/model", "--as", "again"]);
    run(command.env("HF_ENDPOINT", &hub.endpoint).env("HF_TOKEN", TOKEN))
        .await
        .success();
    assert_eq!(hub.requests("listing")[1].authorization, bearer);
    let help = run(home.kr(&["model", "pull", "--help"]).env("HF_TOKEN", TOKEN))
        .await
        .success();
    assert!(!help.contains(TOKEN));
}

#[tokio::test]
async fn two_at_once_do_not_meet_in_one_file() {
    let (home, hub) = (Home::new(), FakeHub::start().await);
    let lock = home.path().join(".cache/kr-serve-mlx/downloads/hub");
    fs::create_dir_all(&lock).unwrap();
    let lock = fs::File::create(lock.join(format!("org--model-1.5@{COMMIT}.lock"))).unwrap();
    lock.lock().unwrap();
    let error = pull(&home, &hub, &["org/model-1.5"]).await.failure(1);
    assert!(error.contains("another kr is fetching this model"), "{error}");
    pull(&home, &hub, &["org/model-1.6"]).await.success();
    drop(lock);
    pull(&home, &hub, &["org/model-1.5"]).await.success();
}
