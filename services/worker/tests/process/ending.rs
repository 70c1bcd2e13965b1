//! How a worker ends.

use std::time::{Duration, Instant};

use kr_proto::worker::session_response::Message as Response;

use super::child::{Worker, wait};

/// How soon a worker whose router is gone must have ended.
const ORPHAN_LIMIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_worker_ends_with_its_router() {
    let mut worker = Worker::start("step_ms=5").await;
    worker.open().await.run(1000).await;
    let cut = Instant::now();
    drop(worker.child.stdin.take());
    wait(&mut worker.child).await;
    assert!(cut.elapsed() < ORPHAN_LIMIT, "took {:?}", cut.elapsed());
    assert!(!worker.socket().exists());
}

#[tokio::test]
async fn a_worker_whose_log_goes_nowhere_ends_with_its_router_too() {
    let mut worker = Worker::start("step_ms=5").await;
    worker.open().await.run(1000).await;
    // Both pipes close at once when a router is killed.
    drop(worker.child.stderr.take());
    let cut = Instant::now();
    drop(worker.child.stdin.take());
    let status = wait(&mut worker.child).await;
    assert!(cut.elapsed() < ORPHAN_LIMIT, "took {:?}", cut.elapsed());
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_step_that_hangs_does_not_keep_an_orphan_alive() {
    let mut worker = Worker::start("step_ms=60000").await;
    let router = worker.open().await;
    let admit = kr_proto::worker::Admit {
        sequence_id: 1,
        prompt_ids: vec![5],
        max_tokens: 2,
        sampling: Some(kr_proto::worker::Sampling {
            top_p: 1.0,
            repetition_penalty: 1.0,
            ..Default::default()
        }),
        ..Default::default()
    };
    router
        .send(kr_proto::worker::session_request::Message::Admit(admit))
        .await;
    let ping = kr_proto::worker::Ping { nonce: 1 };
    router
        .send(kr_proto::worker::session_request::Message::Ping(ping))
        .await;
    let mut router = router;
    while !matches!(router.next().await, Ok(Some(Response::Pong(_)))) {}
    let cut = Instant::now();
    drop(worker.child.stdin.take());
    wait(&mut worker.child).await;
    assert!(cut.elapsed() < ORPHAN_LIMIT, "took {:?}", cut.elapsed());
}

#[tokio::test]
async fn a_terminated_worker_finishes_what_runs() {
    let mut worker = Worker::start("step_ms=5").await;
    let mut router = worker.open().await;
    router.run(40).await;
    worker.signal("TERM").await;
    let (mut tokens, mut drained) = (1, None);
    while let Ok(Some(message)) = router.next().await {
        match message {
            Response::Frame(frame) => tokens += frame.sequences.iter().map(|step| step.ids.len()).sum::<usize>(),
            Response::Drained(end) => drained = Some(end.cancelled),
            _ => {}
        }
    }
    assert_eq!((tokens, drained), (40, Some(0)));
    assert_eq!(wait(&mut worker.child).await.code(), Some(0));
    assert!(!worker.socket().exists());
    assert!(!worker.folder.path().join("address").exists());
}

#[tokio::test]
async fn an_interrupted_worker_without_work_ends_with_0() {
    let mut worker = Worker::start("").await;
    let mut router = worker.open().await;
    worker.signal("INT").await;
    assert!(matches!(router.next().await, Ok(Some(Response::Drained(_)))));
    assert_eq!(wait(&mut worker.child).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut worker = Worker::start("step_ms=5").await;
    let mut router = worker.open().await;
    router.run(2000).await;
    worker.signal("TERM").await;
    // Another signal, because two of one kind may arrive as one.
    worker.signal("INT").await;
    let asked = Instant::now();
    wait(&mut worker.child).await;
    assert!(asked.elapsed() < ORPHAN_LIMIT, "took {:?}", asked.elapsed());
}

#[tokio::test]
async fn an_engine_that_breaks_off_ends_the_process_with_1() {
    let mut worker = Worker::start("step_ms=1,fail_at_step=3").await;
    let mut router = worker.open().await;
    router.run(10).await;
    while let Ok(Some(_)) = router.next().await {}
    assert_eq!(wait(&mut worker.child).await.code(), Some(1));
}
