//! The storyboard against the real dispatcher and a scripted worker.

use std::sync::Arc;

use axum::http::HeaderMap;
use futures::StreamExt as _;
use kr_proto::serve::inference_service_server::InferenceService as _;
use kr_proto::worker as worker_pb;
use tonic::{Code, Request, Response};
use tonic_types::StatusExt as _;

use super::*;
use crate::admission::Admission;
use crate::catalog::Catalog;
use crate::catalog::tests::byte_model;
use crate::dispatch::testing::{metrics, setup};
use crate::dispatch::{Dispatcher, ModelState, Running};
use crate::validate::{Limits, Validator};
use crate::workers::fake::{FakeSession, FakeWorker, soon};

/// An edge with one model of byte tokens, a queue for one request, and one worker that the test plays.
struct Bed {
    inference: Arc<Inference>,
    worker: FakeWorker,
    running: Running,
    _directory: tempfile::TempDir,
}

fn bed(tenant_limit: usize) -> Bed {
    let directory = tempfile::tempdir().unwrap();
    let worker = FakeWorker::start(directory.path(), "w");
    let mut setup = setup(std::slice::from_ref(&worker.address));
    setup.queue.capacity = 1;
    let (dispatcher, running) = Dispatcher::start(vec![setup], metrics());
    let limits = Limits {
        max_prompt_tokens: 0,
        default_max_tokens: 32,
        max_choices: 4,
    };
    let inference = Inference {
        catalog: Arc::new(Catalog::new(vec![byte_model(0, "model", &[])])),
        validator: Validator::new(limits),
        admission: Admission::new(tenant_limit),
        dispatcher,
        metrics: metrics(),
    };
    Bed {
        inference: Arc::new(inference),
        worker,
        running,
        _directory: directory,
    }
}

type Answered = Result<
    Response<<Inference as kr_proto::serve::inference_service_server::InferenceService>::GenerateStream>,
    Status,
>;

impl Bed {
    /// Opens the worker's session and waits until the model is ready.
    async fn ready(&mut self) -> FakeSession {
        let session = self.worker.session().await;
        let mut changes = self.inference.dispatcher.changes();
        soon(changes.wait_for(|models| models[0].state == ModelState::Ready))
            .await
            .unwrap();
        session
    }

    fn generate(&self, request: pb::GenerateRequest) -> impl Future<Output = Answered> + Send + use<> {
        let mut request = Request::new(request);
        request.extensions_mut().insert(Call::begin(&HeaderMap::new()).unwrap());
        let inference = self.inference.clone();
        async move { inference.generate(request).await }
    }

    /// Queues a request; the queue is full with it.
    async fn queued(&self) -> tokio::task::JoinHandle<Answered> {
        let waiting = tokio::spawn(self.generate(prompt("first")));
        // The tests' runtime has one thread: the first request is on its way to the queue before the second.
        tokio::task::yield_now().await;
        assert_eq!(refused(soon(self.generate(prompt("second"))).await).1, "QUEUE_FULL");
        waiting
    }
}

fn prompt(text: &str) -> pb::GenerateRequest {
    pb::GenerateRequest {
        input: Some(Input::Prompt(text.to_owned())),
        ..Default::default()
    }
}

fn refused(answered: Answered) -> (Code, String) {
    let status = answered.err().unwrap();
    (status.code(), status.get_details_error_info().unwrap().reason)
}

#[tokio::test]
async fn headers_wait_for_a_worker_and_the_answer_follows() {
    let mut bed = bed(8);
    let mut worker = bed.ready().await;
    let mut answering = tokio::spawn(bed.generate(prompt("hi")));
    let admit = worker.next_admit().await;
    assert_eq!(admit.prompt_ids, b"hi".map(u32::from));
    assert!(
        futures::FutureExt::now_or_never(&mut answering).is_none(),
        "nobody has accepted it"
    );
    worker.accept(admit.sequence_id).await;
    let mut pieces = soon(answering).await.unwrap().unwrap().into_inner();
    worker.tokens(admit.sequence_id, 0, &b"yes".map(u32::from)).await;
    assert_eq!(soon(pieces.next()).await.unwrap().unwrap().text, "yes");
    worker.finish(admit.sequence_id, worker_pb::FinishReason::Length).await;
    let last = soon(pieces.next()).await.unwrap().unwrap();
    assert_eq!(last.finish.unwrap().reason(), pb::FinishReason::Length);
    assert!(soon(pieces.next()).await.is_none());
}

#[tokio::test]
async fn unknown_models_are_not_found() {
    let bed = bed(8);
    let request = pb::GenerateRequest {
        model: "other".to_owned(),
        ..prompt("hi")
    };
    let answered = bed.generate(request).await;
    assert_eq!(refused(answered), (Code::NotFound, "MODEL_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn a_full_queue_refuses_before_the_headers() {
    let bed = bed(8);
    let _waiting = bed.queued().await;
    let status = bed.generate(prompt("over")).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_costs_no_worker_time() {
    let mut bed = bed(8);
    let waiting = bed.queued().await;
    waiting.abort();
    let _ = waiting.await;
    let mut worker = bed.ready().await;
    let _next = tokio::spawn(bed.generate(prompt("next")));
    assert_eq!(worker.next_admit().await.prompt_ids, b"next".map(u32::from));
}

#[tokio::test]
async fn a_tenant_over_its_limit_is_refused() {
    let bed = bed(1);
    let waiting = tokio::spawn(bed.generate(prompt("first")));
    tokio::task::yield_now().await;
    let (code, reason) = refused(soon(bed.generate(prompt("second"))).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "TENANT_LIMIT"));
    waiting.abort();
}

#[tokio::test]
async fn a_dropped_answer_is_cancelled_on_its_worker() {
    let mut bed = bed(8);
    let mut worker = bed.ready().await;
    let answering = tokio::spawn(bed.generate(prompt("hi")));
    let id = worker.next_admit().await.sequence_id;
    worker.accept(id).await;
    drop(soon(answering).await.unwrap().unwrap());
    assert_eq!(worker.next_cancel().await, (id, worker_pb::CancelReason::ClientGone));
}

#[tokio::test]
async fn a_stop_text_is_cancelled_as_such() {
    let mut bed = bed(8);
    let mut worker = bed.ready().await;
    let parameters = pb::Parameters {
        stop: vec!["!".to_owned()],
        ..Default::default()
    };
    let answering = tokio::spawn(bed.generate(pb::GenerateRequest {
        parameters: Some(parameters),
        ..prompt("hi")
    }));
    let id = worker.next_admit().await.sequence_id;
    worker.tokens(id, 0, &b"ok! no".map(u32::from)).await;
    let mut pieces = soon(answering).await.unwrap().unwrap().into_inner();
    assert_eq!(soon(pieces.next()).await.unwrap().unwrap().text, "ok");
    let reading = tokio::spawn(async move { pieces.next().await });
    assert_eq!(worker.next_cancel().await, (id, worker_pb::CancelReason::StopText));
    worker.finish(id, worker_pb::FinishReason::Cancelled).await;
    let finish = soon(reading).await.unwrap().unwrap().unwrap().finish.unwrap();
    assert_eq!(
        (finish.reason(), finish.receipt.unwrap().max_batch_size),
        (pb::FinishReason::Stop, 7)
    );
}

#[tokio::test]
async fn a_draining_router_is_unavailable() {
    let bed = bed(8);
    let waiting = bed.queued().await;
    bed.running.drain(std::time::Duration::ZERO).await;
    assert_eq!(
        refused(waiting.await.unwrap()),
        (Code::Unavailable, "DRAINING".to_owned())
    );
    let late = bed.inference.clone();
    let mut request = Request::new(prompt("late"));
    request.extensions_mut().insert(Call::begin(&HeaderMap::new()).unwrap());
    assert_eq!(refused(late.generate(request).await).1, "DRAINING");
}

#[tokio::test]
async fn what_a_worker_refuses_for_good_is_the_requests_fault() {
    let mut bed = bed(8);
    let mut worker = bed.ready().await;
    let answering = tokio::spawn(bed.generate(prompt("hi")));
    let id = worker.next_admit().await.sequence_id;
    worker.reject(id, worker_pb::RejectReason::TooLarge).await;
    let answered = soon(answering).await.unwrap();
    assert_eq!(refused(answered), (Code::InvalidArgument, "REQUEST_REFUSED".to_owned()));
}

fn several(n: u32) -> pb::GenerateRequest {
    let parameters = pb::Parameters {
        n: Some(n),
        seed: Some(9),
        ..Default::default()
    };
    pb::GenerateRequest {
        parameters: Some(parameters),
        ..prompt("hi")
    }
}

#[tokio::test]
async fn each_choice_is_a_sequence_and_a_dropped_answer_cancels_them_all() {
    let mut bed = bed(8);
    let mut worker = bed.ready().await;
    let answering = tokio::spawn(bed.generate(several(2)));
    let (one, other) = (worker.next_admit().await, worker.next_admit().await);
    let drawn = |admit: &worker_pb::Admit| {
        let sampling = admit.sampling.as_ref().unwrap();
        (sampling.seed, sampling.choice_index)
    };
    assert_eq!((drawn(&one), drawn(&other)), ((9, 0), (9, 1)));
    assert_eq!(one.prompt_ids, other.prompt_ids);
    worker.accept(other.sequence_id).await;
    drop(soon(answering).await.unwrap().unwrap());
    let mut cancelled = [worker.next_cancel().await.0, worker.next_cancel().await.0];
    cancelled.sort_unstable();
    assert_eq!(cancelled, [one.sequence_id, other.sequence_id]);
}

#[tokio::test]
async fn each_choice_takes_a_permit() {
    let mut bed = bed(2);
    let (code, reason) = refused(soon(bed.generate(several(3))).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "TENANT_LIMIT"));
    let mut worker = bed.ready().await;
    let answering = tokio::spawn(bed.generate(several(2)));
    let id = worker.next_admit().await.sequence_id;
    assert_eq!(refused(soon(bed.generate(prompt("one"))).await).1, "TENANT_LIMIT");
    worker.accept(id).await;
    drop(soon(answering).await.unwrap().unwrap());
    let _next = tokio::spawn(bed.generate(prompt("one")));
    worker.next_admit().await;
}
