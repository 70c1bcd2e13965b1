//! Every query of the dashboards on a real Prometheus that scrapes a service under a little load, and the page it scrapes.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::BTreeSet;
use std::process::Stdio;

use kr_integration_tests::{Prometheus, Service, eventually, generate, greedy, prompt, tool, workspace};
use kr_proto::serve::Parameters;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

fn boards() -> Vec<(String, Value)> {
    let files = workspace()
        .join("dashboards")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    files.map(read).collect()
}

/// Every expression of a board, with the title of its panel.
fn expressions(board: &Value) -> Vec<(String, String)> {
    let panels = board["panels"].as_array().unwrap();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let expressions = targets
            .into_iter()
            .map(|target| target["expr"].as_str().unwrap().to_owned());
        expressions
            .map(|expression| (title.clone(), expression))
            .collect::<Vec<_>>()
    };
    panels.iter().flat_map(of).collect()
}

/// Puts in what Grafana would for "All".
fn resolved(expression: &str) -> String {
    let variables = [
        ("$__rate_interval", "5s"),
        ("$job", ".*"),
        ("$instance", ".*"),
        ("$model", ".*"),
    ];
    let text = variables
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!text.contains('$'), "an unknown variable in {text}");
    text
}

/// The metrics an expression names.
fn metrics(expression: &str) -> Vec<&str> {
    let words = expression.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let prefixes = ["kr_", "rpc_", "gen_ai_server", "gen_ai_client", "process_"];
    words
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .collect()
}

/// One answer of every kind: whole, left early, refused, unknown.
async fn load(service: &Service) {
    let whole = (0..4).map(|_| {
        generate(
            service,
            prompt(
                "Hello",
                Parameters {
                    ignore_eos: Some(true),
                    ..greedy(30)
                },
            ),
        )
    });
    for answer in futures::future::join_all(whole).await {
        answer.unwrap();
    }
    let long = Parameters {
        ignore_eos: Some(true),
        ..greedy(2000)
    };
    let mut left = service
        .inference()
        .generate(prompt("Hello", long))
        .await
        .unwrap()
        .into_inner();
    left.message().await.unwrap().unwrap();
    drop(left);
    assert!(generate(service, prompt("", greedy(1))).await.is_err());
}

#[tokio::test]
async fn every_query_of_the_dashboards_has_an_answer_under_load() {
    let service = Service::fake(2, "step_ms=2").start().await;
    let prometheus = Prometheus::scraping(service.http()).await;
    load(&service).await;
    let mut waited_for = BTreeSet::new();
    for (name, board) in boards() {
        for (title, expression) in expressions(&board) {
            let query = resolved(&expression);
            let values = eventually(&format!("{name}: {title}: {query}"), || async {
                load(&service).await;
                let series = prometheus.query(&query).await;
                let values: Vec<f64> = series
                    .iter()
                    .map(|one| one["value"][1].as_str().unwrap().parse().unwrap())
                    .collect();
                (!values.is_empty() && values.iter().all(|value| value.is_finite())).then_some(values)
            })
            .await;
            assert!(values.iter().all(|value| *value >= 0.0), "{title}: {values:?}");
            waited_for.insert(title);
        }
    }
    assert!(waited_for.len() >= 12, "{waited_for:?}");
    let names = prometheus.metric_names().await;
    for (board, text) in boards().iter().flat_map(|(name, board)| [(name, board.to_string())]) {
        for metric in metrics(&text) {
            assert!(
                names.iter().any(|name| name == metric),
                "{board}: there is no metric {metric}"
            );
        }
    }
}

#[test]
fn boards_are_portable_and_their_panels_do_not_overlap() {
    for (name, board) in boards() {
        assert_eq!(board["id"], Value::Null, "{name}");
        assert!(board["uid"].is_string() && board["schemaVersion"].is_u64(), "{name}");
        let mut taken = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            let title = &panel["title"];
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: {title} is wider than the board");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{name}: {title} lies over another panel");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 10),
                "{name}: {title} is not explained"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{name}: {title} has no unit"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
        }
    }
}

#[tokio::test]
async fn the_metrics_page_satisfies_promtool() {
    let service = Service::fake(1, "step_ms=1").start().await;
    load(&service).await;
    let (status, page) = service.get("/metrics").await;
    assert_eq!(status, 200);
    let mut command = Command::new(tool("promtool"));
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(page.as_bytes()).await.unwrap();
    drop(input);
    let output = promtool.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let kinds = page.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert!(kinds >= 15, "{kinds} instruments:\n{page}");
}

#[tokio::test]
async fn a_thousand_invented_names_make_no_series_and_fifty_scrapes_at_once_are_answered() {
    let service = Service::fake(1, "").start().await;
    let invented = |index: usize| {
        let mut request = prompt("Hello", greedy(1));
        request.model = format!("invented-{index}");
        generate(&service, request)
    };
    let series = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    assert!(invented(0).await.is_err());
    let before = series(&service.get("/metrics").await.1);
    for start in (1..1000).step_by(50) {
        let refused = futures::future::join_all((start..start + 50).map(invented)).await;
        assert!(refused.iter().all(Result::is_err));
    }
    let scrapes = futures::future::join_all((0..50).map(|_| service.get("/metrics"))).await;
    for (status, page) in scrapes {
        assert_eq!((status, series(&page)), (200, before));
        assert!(!page.contains("invented-"));
    }
}
