//! Clients that leave, deadlines that pass, services that end: nothing is kept and nothing hangs.

use std::time::Duration;

use kr_integration_tests::{Service, eventually, generate, greedy, prompt};
use kr_proto::serve::Parameters;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

fn long() -> Parameters {
    Parameters {
        ignore_eos: Some(true),
        ..greedy(2000)
    }
}

async fn running(service: &Service) -> f64 {
    service.metric("kr_requests_running", "").await
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let service = Service::fake(1, "step_ms=5").start().await;
    let mut stream = service
        .inference()
        .generate(prompt("Hello", long()))
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    eventually("one running request", || async {
        (running(&service).await == 1.0).then_some(())
    })
    .await;
    drop(stream);
    eventually("no running request", || async {
        (running(&service).await == 0.0).then_some(())
    })
    .await;
    let cancelled = "finished_reason=\"cancelled\"";
    eventually("a counted cancellation", || async {
        (service.metric("kr_requests_finished_total", cancelled).await == 1.0).then_some(())
    })
    .await;
    let answer = generate(&service, prompt("Hello", greedy(3))).await.unwrap();
    assert_eq!(
        answer.finish.receipt.unwrap().max_batch_size,
        1,
        "the left sequence is in no step any more"
    );
}

#[tokio::test]
async fn a_deadline_ends_a_running_request() {
    let service = Service::fake(1, "step_ms=5").start().await;
    let mut request = Request::new(prompt("Hello", long()));
    request.set_timeout(Duration::from_millis(300));
    let mut stream = service.inference().generate(request).await.unwrap().into_inner();
    let end = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status.code(),
            None => panic!("the stream ended as if the answer were whole"),
        }
    };
    assert!(matches!(end, Code::DeadlineExceeded | Code::Cancelled), "{end:?}");
    eventually("no running request", || async {
        (running(&service).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_told_to_stop_finishes_what_runs() {
    let mut service = Service::fake(1, "step_ms=20").start().await;
    let mut stream = service
        .inference()
        .generate(prompt("Hello", greedy(30)))
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    let workers = service.worker_ids();
    service.router().signal("TERM");
    let mut last = None;
    while let Some(piece) = stream.next().await {
        last = Some(piece.unwrap());
    }
    assert!(last.unwrap().finish.is_some(), "the running answer got its end");
    let status = service.router().wait().await;
    assert!(status.success(), "{status}: {}", service.router().output());
    for worker in workers {
        eventually("the worker's end", || async move { (!alive(worker)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_killed_router_leaves_no_workers_behind() {
    let mut service = Service::fake(2, "step_ms=5").start().await;
    let workers = service.worker_ids();
    assert_eq!(workers.len(), 2);
    service.router().signal("KILL");
    service.router().wait().await;
    for worker in workers {
        eventually("the worker's end", || async move { (!alive(worker)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_killed_worker_comes_back() {
    let service = Service::real(1).start().await;
    let before = service.worker_ids();
    service.signal_worker(before[0], "KILL");
    eventually("a new worker", || async {
        let now = service.worker_ids();
        (!now.is_empty() && now != before).then_some(())
    })
    .await;
    let answer = generate(&service, prompt("Hello", greedy(3))).await.unwrap();
    assert_eq!(answer.ids.len(), 3);
    assert_eq!(
        service.metric("kr_worker_restarts_total", "cause=\"signal\"").await,
        1.0
    );
}

/// A process that exists and is no zombie.
fn alive(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat"));
    status.is_ok_and(|line| line.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}
