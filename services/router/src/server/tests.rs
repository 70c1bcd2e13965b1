use axum::body::Body;
use axum::http::HeaderMap;
use http_body_util::BodyExt as _;
use kr_proto::serve as pb;
use kr_proto::serve::model_service_server::{ModelService, ModelServiceServer};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::metrics::noop::NoopMeterProvider;
use prost::Message as _;
use tokio::sync::Notify;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use super::*;

const LIST: &str = "/kr.serve.v1.ModelService/ListModels";

/// Answers once it may.
#[derive(Default)]
struct Stub {
    wait_for: Option<Arc<Notify>>,
}

#[tonic::async_trait]
impl ModelService for Stub {
    async fn list_models(
        &self,
        _: tonic::Request<pb::ListModelsRequest>,
    ) -> Result<tonic::Response<pb::ListModelsResponse>, Status> {
        if let Some(notify) = &self.wait_for {
            notify.notified().await;
        }
        Ok(tonic::Response::new(pb::ListModelsResponse::default()))
    }
}

fn stack(stub: Stub, api_keys: ApiKeys) -> Routes {
    let service = ModelServiceServer::new(stub).max_decoding_message_size(100);
    let stack = Stack {
        metrics: Arc::new(Metrics::new(&NoopMeterProvider::new().meter("test"))),
        methods: Methods::of(&crate::reflection::DESCRIPTORS).unwrap(),
        api_keys,
        in_flight: InFlight::new(1),
        max_message_bytes: 100,
    };
    layered(Routes::new(service), stack)
}

fn message(bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}

async fn call(routes: Routes, path: &str, body: impl Into<Body>) -> (Status, HeaderMap) {
    let request = axum::http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(body.into())
        .unwrap();
    let (parts, body) = routes.oneshot(request).await.unwrap().into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let status = Status::from_header_map(&parts.headers).or_else(|| Status::from_header_map(&trailers));
    (status.unwrap(), parts.headers)
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn answers_carry_a_request_id() {
    let (status, headers) = call(stack(Stub::default(), ApiKeys::default()), LIST, message(&[])).await;
    assert_eq!(status.code(), Code::Ok);
    assert!(headers[REQUEST_ID].to_str().unwrap().parse::<RequestId>().is_ok());
}

#[tokio::test]
async fn oversize_messages_are_resource_exhausted() {
    let (status, headers) = call(stack(Stub::default(), ApiKeys::default()), LIST, message(&[0; 101])).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    assert!(headers.contains_key(REQUEST_ID));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_never_arrives_does_not_hold_its_place() {
    let routes = stack(Stub::default(), ApiKeys::default());
    let begun = axum::body::Bytes::from_static(&[0, 0, 0]);
    let begun = futures::stream::iter([Ok::<_, std::io::Error>(begun)]);
    let endless = Body::from_stream(futures::StreamExt::chain(begun, futures::stream::pending()));
    let (status, _) = call(routes.clone(), LIST, endless).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    assert_eq!(call(routes, LIST, message(&[])).await.0.code(), Code::Ok);
}

#[tokio::test]
async fn undecodable_messages_are_invalid_arguments() {
    for wrong in [message(&[0xff; 3]), vec![9, 9], Vec::new()] {
        let (status, _) = call(stack(Stub::default(), ApiKeys::default()), LIST, wrong.clone()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong:?}: {}", status.message());
        assert_eq!(reason(&status), "UNDECODABLE_REQUEST");
    }
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    for path in ["/kr.serve.v1.ModelService/Nothing", "/nobody.v1.Nothing/Call", "/"] {
        let (status, headers) = call(stack(Stub::default(), ApiKeys::default()), path, message(&[])).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "UNKNOWN_METHOD"),
            "{path}"
        );
        assert!(headers.contains_key(REQUEST_ID));
    }
}

#[tokio::test]
async fn calls_without_a_key_do_not_pass() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("acme:{}", "0".repeat(64))).unwrap();
    let keys = ApiKeys::read(file.path()).unwrap();
    let (status, _) = call(stack(Stub::default(), keys.clone()), LIST, message(&[])).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "API_KEY_MISSING")
    );
    let probe = call(
        stack(Stub::default(), keys),
        "/grpc.health.v1.Health/Check",
        message(&[]),
    )
    .await;
    assert_ne!(probe.0.code(), Code::Unauthenticated, "probes have no key");
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_and_their_end_makes_room() {
    let may_answer = Arc::new(Notify::new());
    let stub = Stub {
        wait_for: Some(may_answer.clone()),
    };
    let routes = stack(stub, ApiKeys::default());
    let first = tokio::spawn(call(routes.clone(), LIST, message(&[])));
    tokio::task::yield_now().await;
    let (status, _) = call(routes.clone(), LIST, message(&[])).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "SERVER_BUSY")
    );
    assert!(status.get_details_retry_info().is_some());
    may_answer.notify_one();
    assert_eq!(first.await.unwrap().0.code(), Code::Ok);
    may_answer.notify_one();
    assert_eq!(call(routes, LIST, message(&[])).await.0.code(), Code::Ok);
}

#[test]
fn made_up_methods_do_not_become_labels() {
    let methods = Methods::of(&crate::reflection::DESCRIPTORS).unwrap();
    assert_eq!(methods.label(LIST), &LIST[1..]);
    assert_eq!(
        methods.label("/grpc.health.v1.Health/Check"),
        "grpc.health.v1.Health/Check"
    );
    for invented in ["/a/b", "", "/kr.serve.v1.ModelService/X"] {
        assert_eq!(methods.label(invented), "_OTHER");
    }
}

#[test]
fn descriptors_of_error_details_are_served() {
    let set = prost_types::FileDescriptorSet::decode(crate::reflection::DESCRIPTORS[2]).unwrap();
    let has = |name: &str| {
        set.file
            .iter()
            .any(|file| file.message_type.iter().any(|message| message.name() == name))
    };
    assert!(has("RetryInfo") && has("ErrorInfo") && has("BadRequest"));
}
