use axum::body::Body;
use axum::http::Request;
use kr_boot::Environment;
use kr_boot::telemetry::{Identity, Start, TelemetryConfig};
use tower::ServiceExt as _;

use super::*;
use crate::health::tests::readiness;

fn telemetry() -> Arc<Telemetry> {
    let start = Start {
        config: &TelemetryConfig::default(),
        environment: &Environment::default(),
        identity: Identity {
            service: "test",
            version: "0",
            instance_id: "1".to_owned(),
            name: "test".to_owned(),
        },
        buckets: &crate::metrics::requests::BUCKETS,
    };
    Arc::new(Telemetry::build(start).unwrap().0)
}

async fn get(routes: Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = routes.oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readyz_says_why_not() {
    let (_sender, readiness) = readiness(&[ModelState::Failed, ModelState::Loading]);
    let routes = routes(readiness.clone(), telemetry());
    let (status, body) = get(routes.clone(), "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["models"][0]["message"], "weights are missing");
    assert_eq!(report["models"][1]["state"], "loading");
    assert_eq!(get(routes, "/healthz").await.0, StatusCode::OK, "alive all the same");
}

#[tokio::test]
async fn readyz_is_ok_until_the_drain() {
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Failed]);
    let routes = routes(readiness.clone(), telemetry());
    assert_eq!(get(routes.clone(), "/readyz").await.0, StatusCode::OK);
    readiness.draining.cancel();
    assert_eq!(get(routes, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn metrics_have_the_genai_names() {
    use crate::metrics::requests::{Ended, Requests};
    let telemetry = telemetry();
    let requests = Requests::new(&telemetry.meter("test"));
    requests.ended(&Ended {
        operation: "chat",
        model: "a",
        finish_reason: kr_contract::FinishReason::Stop,
        error_type: None,
        prompt_tokens: 3,
        generated_tokens: 5,
        longest_answer: 5,
        times: crate::record::Times {
            to_first_token: Some(std::time::Duration::from_millis(20)),
            decode: Some(std::time::Duration::from_millis(40)),
            ..Default::default()
        },
    });
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Ready]);
    let (_, text) = get(routes(readiness, telemetry), "/metrics").await;
    for line in [
        "gen_ai_server_time_to_first_token_seconds_bucket",
        "gen_ai_server_time_per_output_token_seconds_sum",
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_client_token_usage",
        "kr_requests_finished_total{finished_reason=\"stop\"",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
}
