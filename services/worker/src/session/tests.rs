//! Sessions over a real Unix socket, with a fake model behind them.

mod harness;
mod lifecycle;
mod sequences;

use kr_proto::worker::session_request::Message;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::{ExactnessClass, Hello, Ping, RejectReason};

use harness::{Worker, fast, hello};

#[tokio::test]
async fn hello_is_answered_with_what_the_worker_is() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.connect().await;
    router.send(Message::Hello(hello())).await;
    let Response::Hello(answer) = router.next().await else {
        panic!("no Hello");
    };
    assert_eq!(
        (answer.protocol_major, answer.protocol_minor),
        kr_proto::WORKER_PROTOCOL
    );
    assert!(answer.features.contains(&"logprobs".to_owned()));
    let profile = answer.worker.unwrap();
    let limits = fast().limits;
    assert_eq!(profile.architecture, "fake");
    assert_eq!(profile.instance_id, 42);
    assert_eq!(profile.context_tokens, limits.context_tokens);
    assert_eq!(profile.bucket_tokens, limits.bucket_tokens);
    assert_eq!(profile.max_sequences, limits.max_sequences);
    assert_eq!(profile.vocabulary_size, fast().vocabulary);
    assert_eq!(profile.end_token_ids, [fast().end_token]);
    assert_eq!(profile.hash_scheme, kr_contract::HASH_SCHEME);
    assert_eq!(profile.process_id, std::process::id());
    assert_eq!(profile.fingerprint.unwrap().class(), ExactnessClass::Invariant);
}

#[tokio::test]
async fn another_protocol_is_refused_with_both_versions() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.connect().await;
    router
        .send(Message::Hello(Hello {
            protocol_major: 9,
            protocol_minor: 4,
            ..hello()
        }))
        .await;
    let rejected = router.rejected().await;
    assert_eq!(rejected.reason(), RejectReason::Unsupported);
    assert_eq!(rejected.sequence_id, None);
    assert!(rejected.message.contains("9.4"), "{}", rejected.message);
    assert!(rejected.message.contains("1.0"), "{}", rejected.message);
    assert_eq!(router.end().await, Ok(()));
}

#[tokio::test]
async fn a_required_feature_that_is_unknown_is_refused_by_name() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.connect().await;
    router
        .send(Message::Hello(Hello {
            required_features: vec!["logprobs".into(), "telepathy".into()],
            ..hello()
        }))
        .await;
    let rejected = router.rejected().await;
    assert_eq!(rejected.reason(), RejectReason::Unsupported);
    assert!(rejected.message.contains("telepathy"), "{}", rejected.message);
    assert_eq!(router.end().await, Ok(()));
}

#[tokio::test]
async fn a_session_must_begin_with_hello_and_say_it_once() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.connect().await;
    router.send(Message::Ping(Ping { nonce: 1 })).await;
    assert_eq!(router.end().await, Err(tonic::Code::InvalidArgument));

    let mut router = worker.open().await;
    router.send(Message::Hello(hello())).await;
    assert_eq!(router.end().await, Err(tonic::Code::InvalidArgument));
}

#[tokio::test]
async fn pings_come_back_with_the_load() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.open().await;
    router.send(Message::Ping(Ping { nonce: 77 })).await;
    let Response::Pong(pong) = router.next().await else {
        panic!("no Pong");
    };
    assert_eq!(pong.nonce, 77);
    assert_eq!(pong.load.unwrap().running, 0);
}
