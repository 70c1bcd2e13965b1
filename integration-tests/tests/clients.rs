//! Other people's clients: Python's grpcio, grpcurl and `buf curl`, none of which has code generated from our protos.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

use kr_integration_tests::{Ran, Service, client_script, program, run, tool};
use serde_json::{Value, json};
use tokio::process::Command;

const GENERATE: &str = "kr.serve.v1.InferenceService/Generate";
const CHAT: &str = "kr.serve.v1.InferenceService/Chat";

/// Runs calls by grpcio and returns an outcome for each.
async fn grpcio(service: &Service, calls: Value) -> Vec<Value> {
    let mut command = Command::new(tool("python"));
    let ran = run(command
        .arg(client_script("grpcio_client.py"))
        .arg(service.grpc())
        .arg(calls.to_string()))
    .await;
    serde_json::from_str(&ran.success()).unwrap()
}

async fn grpcurl(service: &Service, data: Option<Value>, what: &[&str]) -> Ran {
    let mut command = Command::new(tool("grpcurl"));
    command.arg("-plaintext");
    if let Some(data) = data {
        command.args(["-d", &data.to_string()]);
    }
    run(command.arg(service.grpc()).args(what)).await
}

/// Reads JSON documents that stand one behind the other.
fn documents(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn whole_text(responses: &[Value]) -> String {
    responses
        .iter()
        .filter_map(|response| response["text"].as_str())
        .collect()
}

fn detail<'a>(outcome: &'a Value, kind: &str) -> &'a Value {
    let details = outcome["details"].as_array().unwrap();
    let found = details
        .iter()
        .find(|detail| detail["@type"].as_str().unwrap().ends_with(kind));
    found.unwrap_or_else(|| panic!("no {kind} in {outcome}"))
}

#[tokio::test]
async fn python_streams_an_answer_of_the_real_model() {
    let service = Service::real(1).start().await;
    let chat = json!({
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "parameters": {"temperature": 0, "max_tokens": 40},
    });
    let outcomes = grpcio(
        &service,
        json!([
            {"services": true},
            {"method": CHAT, "request": chat},
            {"method": "kr.serve.v1.ModelService/ListModels", "request": {}},
            {"method": "kr.serve.v1.InferenceService/Tokenize", "request": {"text": "Hello, world"}},
            {"health": "kr.model/demo"},
            {"health": "nobody"},
        ]),
    )
    .await;
    let [services, chat, models, tokens, health, unknown] = outcomes.try_into().unwrap();
    for name in [
        "grpc.health.v1.Health",
        "kr.serve.v1.InferenceService",
        "kr.serve.v1.ModelService",
    ] {
        assert!(
            services["services"].as_array().unwrap().contains(&name.into()),
            "{services}"
        );
    }
    assert_eq!(chat["code"], "OK", "{chat}");
    let responses = chat["responses"].as_array().unwrap();
    assert_eq!(whole_text(responses), "The answer to this classic math problem is 4.");
    assert!(responses.len() > 5, "it came in pieces: {responses:?}");
    let finish = &responses.last().unwrap()["finish"];
    assert_eq!(finish["reason"], "FINISH_REASON_STOP");
    assert!(
        finish["receipt"]["total_time"].as_str().unwrap().ends_with('s'),
        "{finish}"
    );
    assert_eq!(
        models["responses"][0]["models"][0]["state"], "MODEL_STATE_READY",
        "{models}"
    );
    assert_eq!(models["responses"][0]["models"][0]["architecture"], "LlamaForCausalLM");
    assert_eq!(tokens["responses"][0]["token_ids"], json!([19556, 28, 905]), "{tokens}");
    assert_eq!(health, json!({"code": "OK", "status": "SERVING"}));
    assert_eq!(unknown["code"], "NOT_FOUND");
}

#[tokio::test]
async fn python_reads_error_details_and_may_leave_early() {
    let service = Service::fake(1, "step_ms=5").start().await;
    let endless = json!({"prompt": "Hello", "parameters": {"ignore_eos": true, "max_tokens": 2000}});
    let wrong = json!({"prompt": "Hello", "parameters": {"top_p": 1.5, "max_tokens": 0}});
    let outcomes = grpcio(
        &service,
        json!([
            {"method": GENERATE, "request": wrong},
            {"method": GENERATE, "request": {"model": "nobody", "prompt": "Hello"}},
            {"method": GENERATE, "request": endless, "cancel_after": 3},
            {"method": GENERATE, "request": endless, "timeout": 0.3},
            {"method": GENERATE, "request": {"prompt": "Hello", "parameters": {"max_tokens": 2}}},
        ]),
    )
    .await;
    let [wrong, unknown, cancelled, late, after] = outcomes.try_into().unwrap();
    assert_eq!(wrong["code"], "INVALID_ARGUMENT", "{wrong}");
    let violations = detail(&wrong, "google.rpc.BadRequest")["fieldViolations"]
        .as_array()
        .unwrap();
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| violation["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["parameters.top_p", "parameters.max_tokens"], "{wrong}");
    let info = detail(&wrong, "google.rpc.ErrorInfo");
    assert_eq!(
        (&info["reason"], &info["domain"]),
        (&"INVALID_REQUEST".into(), &"kr-serve-mlx".into())
    );
    assert_eq!(unknown["code"], "NOT_FOUND");
    assert_eq!(detail(&unknown, "google.rpc.ResourceInfo")["resourceName"], "nobody");
    assert_eq!(cancelled["code"], "CANCELLED");
    assert_eq!(cancelled["responses"].as_array().unwrap().len(), 3);
    assert_eq!(late["code"], "DEADLINE_EXCEEDED");
    assert_eq!(after["code"], "OK", "{after}");
    assert!(
        after["headers"].as_array().unwrap().contains(&"x-request-id".into()),
        "{after}"
    );
}

#[tokio::test]
async fn grpcurl_lists_describes_and_streams() {
    let service = Service::fake(1, "").start().await;
    let services = grpcurl(&service, None, &["list"]).await.success();
    assert!(
        services.lines().any(|line| line == "kr.serve.v1.InferenceService"),
        "{services}"
    );
    let manual = grpcurl(&service, None, &["describe", "kr.serve.v1.Parameters"])
        .await
        .success();
    assert!(manual.contains("optional float temperature = 1;"), "{manual}");
    assert!(
        manual.contains("0 always takes the most likely token"),
        "the comments are there: {manual}"
    );
    let chat =
        json!({"messages": [{"role": "user", "content": "Hi"}], "parameters": {"max_tokens": 4, "ignore_eos": true}});
    let pieces = documents(&grpcurl(&service, Some(chat), &[CHAT]).await.success());
    let finish = &pieces.last().unwrap()["finish"];
    assert_eq!(finish["reason"], "FINISH_REASON_LENGTH", "{pieces:?}");
    assert_eq!(finish["usage"]["completionTokens"], 4);
}

#[tokio::test]
async fn grpcurl_shows_error_details_in_words() {
    let service = Service::fake(1, "").start().await;
    let wrong = json!({"prompt": "Hello", "parameters": {"temperature": 1000}});
    let ran = grpcurl(&service, Some(wrong), &[GENERATE]).await;
    assert!(!ran.status.success());
    for part in [
        "InvalidArgument",
        "google.rpc.BadRequest",
        "parameters.temperature",
        "INVALID_REQUEST",
    ] {
        assert!(ran.stderr.contains(part), "{part} is missing:\n{}", ran.stderr);
    }
}

#[tokio::test]
async fn buf_curl_lists_and_streams() {
    let service = Service::fake(1, "").start().await;
    let address = format!("http://{}", service.grpc());
    let buf = |arguments: Vec<String>| {
        let mut command = Command::new(tool("buf"));
        command
            .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge"])
            .args(arguments);
        // No configuration of the repository: only what the server tells.
        command.current_dir(service.folder());
        async move { run(&mut command).await }
    };
    let methods = buf(vec!["--list-methods".into(), address.clone()]).await.success();
    assert!(methods.lines().any(|line| line == GENERATE), "{methods}");
    let data = json!({"prompt": "Hello", "parameters": {"max_tokens": 3, "ignore_eos": true}}).to_string();
    let ran = buf(vec!["-d".into(), data, format!("{address}/{GENERATE}")]).await;
    let pieces = documents(&ran.success());
    let ids: usize = pieces
        .iter()
        .filter_map(|piece| Some(piece["tokenIds"].as_array()?.len()))
        .sum();
    assert_eq!(ids, 3, "{pieces:?}");
    assert_eq!(pieces.last().unwrap()["finish"]["reason"], "FINISH_REASON_LENGTH");
}

#[tokio::test]
async fn kr_prints_the_answer_and_reports_errors_with_their_fields() {
    let service = Service::fake(1, "").start().await;
    let server = format!("http://{}", service.grpc());
    let mut command = Command::new(program("kr"));
    let ran = run(command.args(["generate", "--server", &server, "--json", "--max-tokens", "5", "Hello"])).await;
    let answer = documents(&ran.success());
    assert!(!answer.is_empty());
    let mut command = Command::new(program("kr"));
    let ran = run(command.args(["generate", "--server", &server, "--temperature", "1000", "Hello"])).await;
    assert_eq!(ran.status.code(), Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("parameters.temperature"), "{}", ran.stderr);
}
