//! The dispatcher against scripted workers, over real Unix sockets and in real time: every wait is for an event.

use std::time::Instant;

use kr_contract::FinishReason;
use kr_proto::worker as proto;
use tempfile::TempDir;

use super::snapshot::WorkerState;
use super::testing::{metrics, request, setup};
use super::*;
use crate::clock;
use crate::sequence::{Accepted, SequenceEvent, Tokens};
use crate::workers::fake::{FakeSession, FakeWorker, hello, soon};

/// A dispatcher with one model and its workers.
struct Bed {
    dispatcher: Dispatcher,
    running: Running,
    workers: Vec<FakeWorker>,
    directory: TempDir,
}

fn bed_with(count: usize, change: impl FnOnce(&mut ModelSetup)) -> Bed {
    let directory = tempfile::tempdir().unwrap();
    let workers: Vec<_> = (0..count)
        .map(|index| FakeWorker::start(directory.path(), &index.to_string()))
        .collect();
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address.clone()).collect();
    let mut setup = setup(&addresses);
    change(&mut setup);
    let (dispatcher, running) = Dispatcher::start(vec![setup], metrics());
    Bed {
        dispatcher,
        running,
        workers,
        directory,
    }
}

fn bed(workers: usize) -> Bed {
    bed_with(workers, |_| {})
}

impl Bed {
    /// Waits until the model looks as asked.
    async fn until(&self, asked: impl Fn(&ModelSnapshot) -> bool) -> Arc<ModelSnapshot> {
        let mut changes = self.dispatcher.changes();
        let snapshot = soon(changes.wait_for(|all| asked(&all[0]))).await.unwrap();
        snapshot[0].clone()
    }

    /// Opens the session of worker `index` and waits until the dispatcher uses it.
    async fn ready(&mut self, index: usize) -> FakeSession {
        let session = self.workers[index].session().await;
        self.until(|model| {
            model
                .workers
                .get(index)
                .is_some_and(|worker| worker.state == WorkerState::Ready)
        })
        .await;
        session
    }

    async fn submit(&self, request: SequenceRequest) -> Stream {
        Stream(self.dispatcher.submit(request).await.unwrap())
    }
}

/// A stream whose events are awaited one by one.
struct Stream(SequenceStream);

impl Stream {
    async fn event(&mut self) -> SequenceEvent {
        soon(self.0.recv()).await.unwrap()
    }

    async fn accepted(&mut self) -> Accepted {
        match self.event().await {
            SequenceEvent::Accepted(accepted) => accepted,
            other => panic!("expected Accepted, got {other:?}"),
        }
    }

    async fn tokens(&mut self) -> Tokens {
        match self.event().await {
            SequenceEvent::Tokens(tokens) => tokens,
            other => panic!("expected Tokens, got {other:?}"),
        }
    }

    async fn failed(&mut self) -> Failed {
        match self.event().await {
            SequenceEvent::Failed(failed) => failed,
            other => panic!("expected Failed, got {other:?}"),
        }
    }

    async fn finished(&mut self) -> FinishReason {
        match self.event().await {
            SequenceEvent::Finished(finished) => finished.reason,
            other => panic!("expected Finished, got {other:?}"),
        }
    }
}

fn in_millis(millis: u64) -> Option<Instant> {
    Some(clock::now() + Duration::from_millis(millis))
}

#[tokio::test]
async fn a_sequence_is_accepted_streamed_and_finished() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let admit = worker.next_admit().await;
    assert_eq!(
        (admit.prompt_ids, admit.attempt, admit.max_tokens),
        (vec![1, 2, 3], 1, 8)
    );
    worker.accept(admit.sequence_id).await;
    let accepted = stream.accepted().await;
    assert_eq!(
        (&*accepted.worker, accepted.attempts, &*accepted.model_digest),
        ("w0", 1, "m")
    );
    worker.tokens(admit.sequence_id, 0, &[10]).await;
    assert_eq!(stream.tokens().await.ids, [10]);
    worker.tokens(admit.sequence_id, 1, &[11, 0]).await;
    assert_eq!(stream.tokens().await.start_index, 1);
    worker.finish(admit.sequence_id, proto::FinishReason::Stop).await;
    assert_eq!(stream.finished().await, FinishReason::Stop);
    assert_eq!(stream.0.recv().await, None);
}

#[tokio::test]
async fn a_worker_lost_before_the_first_token_is_retried_on_another_one() {
    let mut bed = bed(2);
    let (mut first, mut second) = (bed.ready(0).await, bed.ready(1).await);
    let mut stream = bed.submit(request(8)).await;
    let admit = first.next_admit().await;
    first.accept(admit.sequence_id).await;
    assert_eq!(stream.accepted().await.attempts, 1);
    drop(first);
    let again = second.next_admit().await;
    assert_eq!((again.attempt, again.prompt_ids), (2, admit.prompt_ids));
    second.tokens(again.sequence_id, 0, &[5]).await;
    let accepted = stream.accepted().await;
    assert_eq!((&*accepted.worker, accepted.attempts), ("w1", 2));
    assert_eq!(stream.tokens().await.ids, [5]);
}

#[tokio::test]
async fn a_sequence_is_retried_once_only() {
    let mut bed = bed(2);
    let (mut first, mut second) = (bed.ready(0).await, bed.ready(1).await);
    let mut stream = bed.submit(request(8)).await;
    first.next_admit().await;
    drop(first);
    second.next_admit().await;
    drop(second);
    assert_eq!(stream.failed().await, Failed::WorkerLost { emitted: 0 });
}

#[tokio::test]
async fn a_worker_lost_after_tokens_ends_the_stream_and_says_how_many() {
    let mut bed = bed(2);
    let mut first = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = first.next_admit().await.sequence_id;
    first.tokens(id, 0, &[5, 6]).await;
    stream.accepted().await;
    assert_eq!(stream.tokens().await.ids, [5, 6]);
    drop(first);
    assert_eq!(stream.failed().await, Failed::WorkerLost { emitted: 2 });
}

#[tokio::test]
async fn a_lost_worker_is_reached_again() {
    let mut bed = bed(1);
    drop(bed.ready(0).await);
    let model = bed.until(|model| model.workers[0].restarts == 1).await;
    assert!(model.message.is_some());
    let mut again = bed.ready(0).await;
    let _stream = bed.submit(request(8)).await;
    again.next_admit().await;
}

#[tokio::test]
async fn a_worker_that_delivers_nothing_is_given_up() {
    let mut bed = bed_with(1, |setup| {
        setup.watchdog = WatchdogLimits {
            floor: Duration::from_millis(50),
            factor: 10,
            // Long enough for the test's worker to deliver once.
            first_step: Duration::from_secs(10),
            first_token: Duration::ZERO,
        };
    });
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.tokens(id, 0, &[5]).await;
    stream.accepted().await;
    stream.tokens().await;
    assert_eq!(stream.failed().await, Failed::WorkerLost { emitted: 1 });
    let model = bed.until(|model| model.workers[0].message.is_some()).await;
    assert!(model.workers[0].message.as_ref().unwrap().contains("delivered nothing"));
}

#[tokio::test]
async fn a_full_queue_refuses_and_the_rest_runs_as_places_get_free() {
    let mut bed = bed_with(1, |setup| {
        setup.queue.capacity = 1;
        setup.batch.most = 1;
    });
    let mut worker = bed.ready(0).await;
    let _first = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let _second = bed.submit(request(8)).await;
    let refused = bed.dispatcher.submit(request(8)).await.unwrap_err();
    assert!(matches!(refused, Failed::QueueFull { capacity: 1, .. }), "{refused:?}");
    worker.finish(id, proto::FinishReason::Length).await;
    assert_ne!(worker.next_admit().await.sequence_id, id);
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_ends_the_request() {
    let bed = bed(1);
    let mut stream = bed
        .submit(SequenceRequest {
            deadline: in_millis(300),
            ..request(8)
        })
        .await;
    assert_eq!(stream.failed().await, Failed::DeadlineExceeded);
    let past = SequenceRequest {
        deadline: Some(clock::now()),
        ..request(8)
    };
    assert_eq!(bed.dispatcher.submit(past).await.unwrap_err(), Failed::DeadlineExceeded);
}

#[tokio::test]
async fn a_deadline_that_passes_while_running_cancels_on_the_worker() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed
        .submit(SequenceRequest {
            deadline: in_millis(1000),
            ..request(8)
        })
        .await;
    let admit = worker.next_admit().await;
    assert!(admit.time_left.is_some());
    worker.accept(admit.sequence_id).await;
    stream.accepted().await;
    assert_eq!(stream.failed().await, Failed::DeadlineExceeded);
    assert_eq!(
        worker.next_cancel().await,
        (admit.sequence_id, proto::CancelReason::Deadline)
    );
}

#[tokio::test]
async fn without_a_worker_patience_ends() {
    let bed = bed_with(0, |setup| {
        setup.queue.max_wait_without_worker = Duration::from_millis(20)
    });
    let mut stream = bed.submit(request(8)).await;
    assert!(matches!(stream.failed().await, Failed::NoWorker { .. }));
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled_once_and_its_place_is_free_after_the_end() {
    let mut bed = bed_with(1, |setup| setup.batch.most = 1);
    let mut worker = bed.ready(0).await;
    let stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let waiting = bed.submit(request(8)).await;
    let mut last = bed.submit(request(8)).await;
    drop(waiting);
    drop(stream);
    assert_eq!(worker.next_cancel().await, (id, proto::CancelReason::ClientGone));
    worker.finish(id, proto::FinishReason::Cancelled).await;
    let next = worker.next_admit().await.sequence_id;
    worker.accept(next).await;
    last.accepted().await;
}

#[tokio::test]
async fn after_a_stop_text_only_the_end_comes() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.tokens(id, 0, &[1]).await;
    stream.accepted().await;
    stream.tokens().await;
    stream.0.stop_text_found();
    assert_eq!(worker.next_cancel().await, (id, proto::CancelReason::StopText));
    worker.tokens(id, 1, &[2]).await;
    worker.finish(id, proto::FinishReason::Cancelled).await;
    assert_eq!(stream.finished().await, FinishReason::Cancelled);
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_nobody_else() {
    let mut bed = bed_with(1, |setup| setup.stream.unread_tokens = 4);
    let mut worker = bed.ready(0).await;
    let mut slow = bed.submit(request(100)).await;
    let slow_id = worker.next_admit().await.sequence_id;
    let mut quick = bed.submit(request(100)).await;
    let quick_id = worker.next_admit().await.sequence_id;
    worker.tokens(slow_id, 0, &[1, 2, 3, 4]).await;
    worker.tokens(quick_id, 0, &[9]).await;
    worker.tokens(slow_id, 4, &[5]).await;
    assert_eq!(worker.next_cancel().await, (slow_id, proto::CancelReason::ClientGone));
    quick.accepted().await;
    assert_eq!(quick.tokens().await.ids, [9]);
    slow.accepted().await;
    assert_eq!(slow.tokens().await.ids, [1, 2, 3, 4]);
    assert_eq!(slow.failed().await, Failed::SlowConsumer);
}

#[tokio::test]
async fn tokens_with_a_gap_are_never_passed_on() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.tokens(id, 1, &[5]).await;
    stream.accepted().await;
    assert!(matches!(stream.failed().await, Failed::ModelFailed { .. }));
    assert_eq!(worker.next_cancel().await.0, id);
}

#[tokio::test]
async fn a_frame_of_a_former_life_is_dropped() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.instance += 1;
    worker.tokens(id, 0, &[66]).await;
    worker.instance -= 1;
    worker.tokens(id, 0, &[5]).await;
    stream.accepted().await;
    assert_eq!(stream.tokens().await.ids, [5]);
}

#[tokio::test]
async fn a_worker_that_is_busy_or_drains_sends_the_sequence_back() {
    let mut bed = bed(2);
    let (mut first, mut second) = (bed.ready(0).await, bed.ready(1).await);
    let mut stream = bed.submit(request(8)).await;
    let id = first.next_admit().await.sequence_id;
    first.reject(id, proto::RejectReason::Busy).await;
    let id = second.next_admit().await.sequence_id;
    second.reject(id, proto::RejectReason::Draining).await;
    let admit = first.next_admit().await;
    assert_eq!(admit.attempt, 1);
    first.accept(admit.sequence_id).await;
    assert_eq!(stream.accepted().await.attempts, 1);
    bed.until(|model| model.workers[1].state == WorkerState::Draining && model.ready_workers == 1)
        .await;
}

#[tokio::test]
async fn a_final_refusal_reaches_the_client() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.reject(id, proto::RejectReason::TooLarge).await;
    let message = "for the test".into();
    assert_eq!(stream.failed().await, Failed::Refused { message });
}

#[tokio::test]
async fn a_worker_with_another_model_is_refused_and_both_digests_are_named() {
    let mut bed = bed(2);
    bed.workers[1] = FakeWorker::start_as(bed.directory.path(), "1", hello("other", "t"));
    let _first = bed.ready(0).await;
    let _refused = bed.workers[1].session().await;
    let model = bed
        .until(|model| model.workers.get(1).is_some_and(|worker| worker.message.is_some()))
        .await;
    let message = model.workers[1].message.clone().unwrap();
    assert!(
        message.contains("digest other") && message.contains("expected is m"),
        "{message}"
    );
    assert_eq!((model.state, model.ready_workers), (ModelState::Ready, 1));
}

#[tokio::test]
async fn a_model_without_a_worker_says_why() {
    let mut bed = bed_with(1, |setup| setup.identity.tokenizer_digest = Some("mine".into()));
    let _refused = bed.workers[0].session().await;
    let model = bed.until(|model| model.state == ModelState::Failed).await;
    let message = model.message.clone().unwrap();
    assert!(
        message.contains("tokenizer has digest t, expected is mine"),
        "{message}"
    );
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut stream = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let dispatcher = bed.dispatcher.clone();
    let drained = tokio::spawn(bed.running.drain(Duration::from_secs(30)));
    soon(
        dispatcher
            .changes()
            .wait_for(|all| all[0].state == ModelState::Draining),
    )
    .await
    .unwrap();
    assert_eq!(dispatcher.submit(request(8)).await.unwrap_err(), Failed::Draining);
    worker.tokens(id, 0, &[5]).await;
    worker.finish(id, proto::FinishReason::Length).await;
    stream.accepted().await;
    stream.tokens().await;
    assert_eq!(stream.finished().await, FinishReason::Length);
    soon(drained).await.unwrap();
    assert_eq!(worker.next().await, None);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended_by_the_drain() {
    let mut bed = bed_with(1, |setup| setup.batch.most = 1);
    let mut worker = bed.ready(0).await;
    let mut running = bed.submit(request(8)).await;
    worker.next_admit().await;
    let mut waiting = bed.submit(request(8)).await;
    soon(bed.running.drain(Duration::ZERO)).await;
    assert_eq!(running.failed().await, Failed::Draining);
    assert_eq!(waiting.failed().await, Failed::Draining);
    assert_eq!(bed.dispatcher.submit(request(8)).await.unwrap_err(), Failed::Draining);
}

#[tokio::test]
async fn a_loop_that_ends_by_itself_is_noticed() {
    let mut bed = bed(1);
    assert!(futures::FutureExt::now_or_never(bed.running.failed()).is_none());
    bed.running.loops[0].1.abort();
    soon(bed.running.failed()).await;
}

fn shared(max_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        shared_under: Some("".into()),
        ..request(max_tokens)
    }
}

#[tokio::test]
async fn a_late_joiner_gets_the_tokens_so_far_and_then_the_live_ones() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut first = bed.submit(shared(8)).await;
    let id = worker.next_admit().await.sequence_id;
    worker.tokens(id, 0, &[5, 6]).await;
    assert!(!first.accepted().await.coalesced);
    assert_eq!(first.tokens().await.ids, [5, 6]);
    let mut late = bed.submit(shared(8)).await;
    assert!(late.accepted().await.coalesced);
    let head = late.tokens().await;
    assert_eq!((head.start_index, head.ids), (0, vec![5, 6]));
    worker.tokens(id, 2, &[7]).await;
    assert_eq!(first.tokens().await.ids, [7]);
    let tail = late.tokens().await;
    assert_eq!((tail.start_index, tail.ids), (2, vec![7]));
    worker.finish(id, proto::FinishReason::Length).await;
    assert_eq!(first.finished().await, FinishReason::Length);
    assert_eq!(late.finished().await, FinishReason::Length);
}

#[tokio::test]
async fn the_last_reader_to_leave_cancels() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let first = bed.submit(shared(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let mut late = bed.submit(shared(8)).await;
    drop(first);
    worker.tokens(id, 0, &[5]).await;
    late.accepted().await;
    assert_eq!(late.tokens().await.ids, [5], "the others go on");
    drop(late);
    assert_eq!(worker.next_cancel().await, (id, proto::CancelReason::ClientGone));
    // What is cancelled is joined by nobody.
    let _again = bed.submit(shared(8)).await;
    assert_ne!(worker.next_admit().await.sequence_id, id);
}

#[tokio::test]
async fn a_readers_deadline_or_stop_text_ends_its_own_answer_only() {
    let mut bed = bed(1);
    let mut worker = bed.ready(0).await;
    let mut first = bed.submit(shared(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let mut hurried = bed
        .submit(SequenceRequest {
            deadline: in_millis(300),
            ..shared(8)
        })
        .await;
    let mut stopping = bed.submit(shared(8)).await;
    worker.tokens(id, 0, &[5]).await;
    for stream in [&mut first, &mut hurried, &mut stopping] {
        stream.accepted().await;
        stream.tokens().await;
    }
    stopping.0.stop_text_found();
    assert_eq!(soon(stopping.0.recv()).await, None, "nothing is left to wait for");
    assert_eq!(hurried.failed().await, Failed::DeadlineExceeded);
    worker.tokens(id, 1, &[6]).await;
    assert_eq!(first.tokens().await.ids, [6]);
    worker.finish(id, proto::FinishReason::Length).await;
    assert_eq!(first.finished().await, FinishReason::Length);
}

#[tokio::test]
async fn a_waiting_group_has_the_most_generous_deadline_and_priority_of_its_readers() {
    let mut bed = bed_with(1, |setup| setup.batch.most = 1);
    let mut worker = bed.ready(0).await;
    let _running = bed.submit(request(8)).await;
    let id = worker.next_admit().await.sequence_id;
    let _normal = bed.submit(request(16)).await;
    let mut hurried = bed
        .submit(SequenceRequest {
            deadline: in_millis(100),
            ..shared(8)
        })
        .await;
    let _patient = bed
        .submit(SequenceRequest {
            priority: crate::sequence::Priority::High,
            ..shared(8)
        })
        .await;
    assert_eq!(hurried.failed().await, Failed::DeadlineExceeded);
    worker.finish(id, proto::FinishReason::Length).await;
    let next = worker.next_admit().await;
    assert_eq!(
        (next.max_tokens, next.time_left),
        (8, None),
        "the group goes before who came first"
    );
}
