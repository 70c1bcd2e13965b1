//! How sessions end, and what comes after.

use std::time::Duration;

use kr_engine::fake::{FakeFaults, FakeModelConfig};
use kr_proto::worker::session_request::Message;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::{Drain, FinishReason, RejectReason};
use tonic::Code;

use super::harness::{Worker, admit, fast, greedy_params, hello, slow};
use crate::readiness::Readiness;

fn drain(timeout: Duration) -> Message {
    Message::Drain(Drain {
        timeout: Some(timeout.try_into().unwrap()),
    })
}

#[tokio::test]
async fn a_session_waits_until_the_model_is_loaded() {
    let worker = Worker::loading(fast(), 16).await;
    let mut router = worker.connect().await;
    router.send(Message::Hello(hello())).await;
    let early = tokio::time::timeout(Duration::from_millis(50), router.try_next()).await;
    assert!(early.is_err(), "answered before the model was loaded");
    worker.loader.send(Ok(())).unwrap();
    assert!(matches!(router.next().await, Response::Hello(_)));
}

#[tokio::test]
async fn a_failed_load_is_told_to_the_session_that_waits() {
    let worker = Worker::loading(fast(), 16).await;
    let mut router = worker.connect().await;
    router.send(Message::Hello(hello())).await;
    worker.loader.send(Err("config.json: no such architecture")).unwrap();
    let status = router.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("no such architecture"), "{status:?}");
    worker
        .reaches(|readiness| matches!(readiness, Readiness::NotLoaded(_)))
        .await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_refuses_the_rest() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(1, &[1, 2], 20))).await;
    while router.frame().await.sequences.is_empty() {}
    router.send(drain(Duration::from_secs(10))).await;
    router.send(Message::Admit(admit(2, &[1, 2], 20))).await;
    let rejected = router.rejected().await;
    assert_eq!(
        (rejected.sequence_id, rejected.reason()),
        (Some(2), RejectReason::Draining)
    );
    let mut reasons = Vec::new();
    let drained = loop {
        match router.next().await {
            Response::Frame(frame) => {
                reasons.extend(
                    frame
                        .sequences
                        .iter()
                        .filter_map(|step| step.finish.as_ref().map(|f| f.reason())),
                );
            }
            Response::Drained(drained) => break drained,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reasons, [FinishReason::Length]);
    assert_eq!(drained.cancelled, 0);
    assert_eq!(router.end().await, Ok(()));
    worker
        .reaches(|readiness| matches!(readiness, Readiness::Drained))
        .await;
    let mut late = worker.connect().await;
    late.send(Message::Hello(hello())).await;
    assert_eq!(late.rejected().await.reason(), RejectReason::Draining);
}

#[tokio::test]
async fn a_drain_without_time_counts_what_it_cut_off() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(1, &[1, 2], 1000))).await;
    while router.frame().await.sequences.is_empty() {}
    router.send(drain(Duration::ZERO)).await;
    let drained = loop {
        if let Response::Drained(drained) = router.next().await {
            break drained;
        }
    };
    assert_eq!(drained.cancelled, 1);
}

#[tokio::test]
async fn a_new_session_replaces_the_old_one() {
    let worker = Worker::start(slow()).await;
    let mut old = worker.open().await;
    old.send(Message::Admit(admit(1, &[1, 2], 1000))).await;
    while old.frame().await.sequences.is_empty() {}
    let mut new = worker.open().await;
    assert_eq!(old.end().await, Err(Code::Aborted));
    new.send(Message::Admit(admit(1, &[5], 3))).await;
    let mut tokens = Vec::new();
    while tokens.len() < 3 {
        let frame = new.frame().await;
        assert!(
            frame.load.unwrap().running <= 1,
            "the old session's sequence still runs"
        );
        tokens.extend(frame.sequences.iter().flat_map(|step| step.ids.clone()));
    }
    assert_eq!(tokens, fast().expected_tokens(&[5], &greedy_params(), 3));
}

#[tokio::test]
async fn a_router_that_leaves_takes_its_sequences_along() {
    let worker = Worker::start(slow()).await;
    let mut old = worker.open().await;
    old.send(Message::Admit(admit(1, &[1, 2], 1000))).await;
    while old.frame().await.sequences.is_empty() {}
    drop(old);
    let mut new = worker.open().await;
    new.send(Message::Admit(admit(9, &[5], 1))).await;
    let frame = loop {
        let frame = new.frame().await;
        if frame.step > 0 {
            break frame;
        }
    };
    assert_eq!(frame.planned_sequences, 1);
}

#[tokio::test]
async fn a_router_that_does_not_read_loses_its_session_and_nothing_else() {
    let worker = Worker::start_with(fast(), 8).await;
    let mut deaf = worker.open().await;
    for id in 1..=32 {
        deaf.send(Message::Admit(admit(id, &[1, 2], 1900))).await;
    }
    worker.is_alone().await;
    assert_eq!(deaf.end().await, Err(Code::ResourceExhausted));
    let mut other = worker.open().await;
    other.send(Message::Admit(admit(1, &[5], 1))).await;
    let frame = loop {
        let frame = other.frame().await;
        if frame.step > 0 {
            break frame;
        }
    };
    assert_eq!(frame.planned_sequences, 1);
}

#[tokio::test]
async fn an_engine_that_breaks_off_ends_the_session_as_unavailable() {
    let model = FakeModelConfig {
        faults: FakeFaults {
            fail_wait_at_step: Some(3),
            ..FakeFaults::default()
        },
        ..fast()
    };
    let worker = Worker::start(model).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(1, &[1, 2], 10))).await;
    let mut reasons = Vec::new();
    let status = loop {
        match router.try_next().await {
            Ok(Some(Response::Frame(frame))) => {
                reasons.extend(
                    frame
                        .sequences
                        .iter()
                        .filter_map(|step| step.finish.as_ref().map(|f| f.reason())),
                );
            }
            Ok(other) => panic!("{other:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(reasons, [FinishReason::Error]);
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("told to fail"), "{status:?}");
}
