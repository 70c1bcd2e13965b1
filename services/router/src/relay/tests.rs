use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use futures::StreamExt as _;
use kr_contract::Exactness;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::metrics::noop::NoopMeterProvider;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::admission::Admission;
use crate::call::Call;
use crate::catalog::tests::byte_model;
use crate::metrics::Metrics;
use crate::record::Operation;
use crate::sequence::stream::detached;
use crate::sequence::{Accepted, SequenceSender, Tenant, TokenLogprobs};
use crate::validate::{Asked, Limits, Place, Prompt, Validator};

type Answer = std::pin::Pin<Box<dyn Stream<Item = Result<Piece, Status>> + Send>>;

/// A request for bytes as tokens, running on a worker that the test plays.
async fn running(parameters: pb::Parameters) -> (SequenceSender, Answer, Admission) {
    let (mut senders, answer, admission) = running_choices(parameters).await;
    (senders.remove(0), answer, admission)
}

/// The same with a sender for each choice.
async fn running_choices(parameters: pb::Parameters) -> (Vec<SequenceSender>, Answer, Admission) {
    let call = Call::begin(&HeaderMap::new()).unwrap();
    let model = Arc::new(byte_model(0, "bytes", &[]));
    let asked = Asked {
        prompt: Prompt::Text("ab".to_owned()),
        parameters,
        idempotency_key: String::new(),
    };
    let place = Place {
        call: &call,
        model: &model,
        longest_sequence: None,
    };
    let limits = Limits {
        max_prompt_tokens: 0,
        default_max_tokens: 100,
        max_choices: 4,
    };
    let valid = Validator::new(limits).validate(asked, place).await.unwrap();
    let metrics = Arc::new(Metrics::new(&NoopMeterProvider::new().meter("test")));
    let mut record = Record::begin(call, Operation::Generate, &valid, metrics);
    record.queued();
    let admission = Admission::new(1);
    let (mut senders, mut choices) = (Vec::new(), Vec::new());
    for choice in 0..valid.choices {
        record.accepted(choice as usize, accepted());
        let (sender, sequence) = detached();
        senders.push(sender);
        choices.push(Choice::new(sequence, AnswerText::new(&valid).unwrap()));
    }
    let permits = vec![admission.admit(&Tenant("t".into())).unwrap()];
    let relay = Relay::new(&valid, Choices::new(choices), record, permits);
    (senders, Box::pin(relay.into_stream()), admission)
}

fn accepted() -> Accepted {
    Accepted {
        worker: "w-0".into(),
        exactness: Exactness::Close,
        numerics_fingerprint: "fake".into(),
        model_digest: "d".into(),
        attempts: 1,
        queue_time: Duration::from_millis(3),
        coalesced: false,
    }
}

fn stopping_at(stops: &[&str]) -> pb::Parameters {
    pb::Parameters {
        stop: stops.iter().map(|stop| (*stop).to_owned()).collect(),
        ..Default::default()
    }
}

fn send(sender: &mut SequenceSender, start_index: u32, bytes: &[u8]) {
    let tokens = Tokens {
        start_index,
        ids: bytes.iter().copied().map(TokenId::from).collect(),
        logprobs: Vec::new(),
    };
    sender.tokens(tokens, std::time::Instant::now()).unwrap();
}

fn finished(reason: FinishReason) -> Finished {
    Finished {
        reason,
        waiting: Duration::from_millis(1),
        prefill: Duration::from_millis(4),
        decode: Duration::from_millis(10),
        mean_batch_size: 2.5,
        max_batch_size: 4,
        cached_tokens: 0,
        copied_bytes: 0,
        copy_time: Duration::ZERO,
        preemptions: 0,
    }
}

/// Reads an answer to its end: all text, the last piece, and the status if it is not OK.
async fn read(mut answer: Answer) -> (String, Piece, Option<Status>) {
    let (mut text, mut last) = (String::new(), None);
    while let Some(item) = answer.next().await {
        match item {
            Ok(piece) => {
                text += &piece.text;
                last = Some(piece);
            }
            Err(status) => {
                assert!(answer.next().await.is_none(), "nothing follows a status");
                return (text, last.unwrap(), Some(status));
            }
        }
    }
    (text, last.unwrap(), None)
}

fn reason(piece: &Piece) -> pb::FinishReason {
    piece.finish.as_ref().unwrap().reason()
}

#[tokio::test]
async fn tokens_become_text_and_the_end_comes_with_the_last_of_them() {
    let (mut sender, answer, _) = running(pb::Parameters::default()).await;
    send(&mut sender, 0, b"hello");
    sender.finish(finished(FinishReason::Length));
    let (text, last, status) = read(answer).await;
    assert_eq!((text.as_str(), last.token_ids.len()), ("hello", 5));
    assert_eq!((reason(&last), status.is_none()), (pb::FinishReason::Length, true));
    let finish = last.finish.unwrap();
    let usage = finish.usage.unwrap();
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
        (2, 5, 7)
    );
    let receipt = finish.receipt.unwrap();
    assert_eq!((receipt.worker.as_str(), receipt.attempts), ("w-0", 1));
    assert_eq!((receipt.mean_batch_size, receipt.max_batch_size), (2.5, 4));
    assert_eq!(receipt.queue_time.unwrap().nanos, 3_000_000);
    assert_eq!(receipt.prefill_time.unwrap().nanos, 5_000_000);
}

#[tokio::test]
async fn pieces_have_no_gap_and_no_overlap() {
    let (mut sender, mut answer, _) = running(pb::Parameters::default()).await;
    let mut next = 0;
    for bytes in [b"ab".as_slice(), b"c", b"defg"] {
        send(&mut sender, next, bytes);
        let piece = answer.next().await.unwrap().unwrap();
        assert_eq!((piece.start_index, piece.token_ids.len()), (next, bytes.len()));
        next += u32::try_from(bytes.len()).unwrap();
    }
}

#[tokio::test]
async fn characters_are_never_split() {
    let (mut sender, mut answer, _) = running(pb::Parameters::default()).await;
    let snowman = "☃".as_bytes();
    send(&mut sender, 0, &snowman[..2]);
    let piece = answer.next().await.unwrap().unwrap();
    assert_eq!((piece.text.as_str(), piece.token_ids.len()), ("", 2));
    send(&mut sender, 2, &snowman[2..]);
    assert_eq!(answer.next().await.unwrap().unwrap().text, "☃");
}

#[tokio::test]
async fn the_end_token_is_counted_and_has_no_text() {
    let (mut sender, answer, _) = running(pb::Parameters::default()).await;
    send(&mut sender, 0, b"hi");
    let end = Tokens {
        start_index: 2,
        ids: vec![257],
        logprobs: Vec::new(),
    };
    sender.tokens(end, std::time::Instant::now()).unwrap();
    sender.finish(finished(FinishReason::Stop));
    let (text, last, _) = read(answer).await;
    assert_eq!((text.as_str(), reason(&last)), ("hi", pb::FinishReason::Stop));
    assert_eq!(last.finish.unwrap().usage.unwrap().completion_tokens, 3);
}

#[tokio::test]
async fn a_clients_stop_id_has_no_text_either() {
    let parameters = pb::Parameters {
        stop_token_ids: vec![u32::from(b'!')],
        ..Default::default()
    };
    let (mut sender, answer, _) = running(parameters).await;
    send(&mut sender, 0, b"hi!");
    sender.finish(finished(FinishReason::Stop));
    assert_eq!(read(answer).await.0, "hi");
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_cancels_the_sequence() {
    let (mut sender, mut answer, _) = running(stopping_at(&["END"])).await;
    send(&mut sender, 0, b"one E");
    assert_eq!(
        answer.next().await.unwrap().unwrap().text,
        "one ",
        "what may begin a stop text is held back"
    );
    send(&mut sender, 5, b"NDless");
    let piece = answer.next().await.unwrap().unwrap();
    assert_eq!(
        (piece.text.as_str(), piece.token_ids.len()),
        ("", 2),
        "tokens past the stop are left out"
    );
    sender.finish(finished(FinishReason::Cancelled));
    let (text, last, status) = read(answer).await;
    assert_eq!(
        (text.as_str(), reason(&last), status.is_none()),
        ("", pb::FinishReason::Stop, true)
    );
    let finish = last.finish.unwrap();
    assert_eq!(finish.usage.unwrap().completion_tokens, 7);
    assert_eq!(
        finish.receipt.unwrap().max_batch_size,
        4,
        "the worker's figures are waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_does_not_hold_up_a_stopped_answer() {
    let (mut sender, answer, _) = running(stopping_at(&["."])).await;
    send(&mut sender, 0, b"done.");
    let (text, last, status) = read(answer).await;
    assert_eq!(
        (text.as_str(), reason(&last), status.is_none()),
        ("done", pb::FinishReason::Stop, true)
    );
    drop(sender);
}

#[tokio::test]
async fn what_was_held_back_is_sent_at_the_end() {
    let (mut sender, answer, _) = running(stopping_at(&["END"])).await;
    send(&mut sender, 0, b"the EN");
    sender.finish(finished(FinishReason::Length));
    assert_eq!(read(answer).await.0, "the EN");
}

#[tokio::test]
async fn a_failure_after_the_start_ends_with_a_finish_and_then_the_status() {
    let (mut sender, answer, _) = running(pb::Parameters::default()).await;
    send(&mut sender, 0, b"half");
    sender.fail(Failed::WorkerLost { emitted: 4 });
    let (text, last, status) = read(answer).await;
    assert_eq!((text.as_str(), reason(&last)), ("half", pb::FinishReason::Error));
    assert_eq!(last.finish.unwrap().usage.unwrap().completion_tokens, 4);
    let status = status.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "WORKER_LOST");
}

#[tokio::test]
async fn a_passed_deadline_is_a_cancelled_answer() {
    let (mut sender, answer, _) = running(pb::Parameters::default()).await;
    send(&mut sender, 0, b"x");
    sender.fail(Failed::DeadlineExceeded);
    let (_, last, status) = read(answer).await;
    assert_eq!(reason(&last), pb::FinishReason::Cancelled);
    assert_eq!(status.unwrap().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_dropped_answer_drops_the_sequence_and_the_permit() {
    let (mut sender, mut answer, admission) = running(pb::Parameters::default()).await;
    send(&mut sender, 0, b"x");
    answer.next().await.unwrap().unwrap();
    assert!(
        admission.admit(&Tenant("t".into())).is_err(),
        "held while the answer is read"
    );
    assert!(!sender.is_closed());
    drop(answer);
    assert!(sender.is_closed());
    assert!(admission.admit(&Tenant("t".into())).is_ok());
}

#[tokio::test]
async fn logprobs_name_their_tokens() {
    let (mut sender, mut answer, _) = running(pb::Parameters::default()).await;
    let logprobs = TokenLogprobs {
        chosen: -0.5,
        top: vec![(u32::from(b'a'), -0.5), (0xe2, -1.5)],
    };
    let tokens = Tokens {
        start_index: 0,
        ids: vec![u32::from(b'a')],
        logprobs: vec![logprobs],
    };
    sender.tokens(tokens, std::time::Instant::now()).unwrap();
    let piece = answer.next().await.unwrap().unwrap();
    let named = &piece.logprobs[0];
    assert_eq!((named.token_id, named.logprob), (u32::from(b'a'), -0.5));
    assert_eq!(named.text, "a");
    let texts: Vec<&str> = named.top.iter().map(|top| top.text.as_str()).collect();
    assert_eq!(texts, ["a", ""], "half a character has no text");
}

#[tokio::test(start_paused = true)]
async fn time_the_client_does_not_read_is_stall() {
    let (mut sender, mut answer, _) = running(pb::Parameters::default()).await;
    let tokens = |start_index| Tokens {
        start_index,
        ids: vec![TokenId::from(b'x')],
        logprobs: Vec::new(),
    };
    sender.tokens(tokens(0), crate::clock::now()).unwrap();
    answer.next().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    sender.tokens(tokens(1), crate::clock::now()).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    sender.finish(finished(FinishReason::Length));
    let (_, last, _) = read(answer).await;
    let stall = last.finish.unwrap().receipt.unwrap().stall_time.unwrap();
    assert_eq!((stall.seconds, stall.nanos), (2, 0));
}

fn several(n: u32) -> pb::Parameters {
    pb::Parameters {
        n: Some(n),
        ..Default::default()
    }
}

#[tokio::test]
async fn choices_come_interleaved_and_each_has_its_end() {
    let (mut senders, mut answer, _) = running_choices(several(2)).await;
    send(&mut senders[1], 0, b"on");
    send(&mut senders[0], 0, b"z");
    let mut places = Vec::new();
    for _ in 0..2 {
        let piece = answer.next().await.unwrap().unwrap();
        places.push((piece.choice_index, piece.text, piece.start_index));
    }
    places.sort_unstable();
    assert_eq!(places, [(0, "z".to_owned(), 0), (1, "on".to_owned(), 0)]);
    let mut first = senders.remove(0);
    send(&mut first, 1, b"ero");
    let cached = |cached_tokens| Finished {
        cached_tokens,
        ..finished(FinishReason::Stop)
    };
    first.finish(cached(1));
    let end = answer.next().await.unwrap().unwrap();
    assert_eq!((end.choice_index, end.text.as_str(), end.start_index), (0, "ero", 1));
    let finish = end.finish.unwrap();
    assert_eq!(finish.usage.unwrap().completion_tokens, 4);
    assert_eq!(finish.request_usage, None, "another choice is still running");
    senders.remove(0).finish(cached(2));
    let (_, last, status) = read(answer).await;
    assert_eq!((last.choice_index, status.is_none()), (1, true));
    let finish = last.finish.unwrap();
    assert_eq!(finish.usage.unwrap().completion_tokens, 2);
    let whole = finish.request_usage.unwrap();
    assert_eq!(
        (whole.prompt_tokens, whole.completion_tokens, whole.total_tokens),
        (2, 6, 8)
    );
    assert_eq!(
        whole.cached_tokens, 1,
        "the prompt is counted as the first to compute it did"
    );
}

#[tokio::test]
async fn a_choice_that_always_has_something_to_say_does_not_silence_the_others() {
    let (mut senders, mut answer, _) = running_choices(several(3)).await;
    let mut heard = [0; 3];
    for turn in 0..9 {
        for sender in &mut senders {
            send(sender, turn, b"x");
        }
        let piece = answer.next().await.unwrap().unwrap();
        heard[piece.choice_index as usize] += 1;
    }
    assert_eq!(heard, [3, 3, 3]);
}

#[tokio::test]
async fn a_failing_choice_ends_the_request_and_every_choice_says_so() {
    let (mut senders, mut answer, _) = running_choices(several(3)).await;
    send(&mut senders[0], 0, b"a");
    assert_eq!(answer.next().await.unwrap().unwrap().choice_index, 0);
    senders.remove(0).finish(finished(FinishReason::Length));
    let failing = senders.remove(1);
    send(&mut senders[0], 0, b"bc");
    assert_eq!(answer.next().await.unwrap().unwrap().choice_index, 1);
    let end = answer.next().await.unwrap().unwrap();
    let mut ends = vec![(end.choice_index, reason(&end), false)];
    failing.fail(Failed::WorkerLost { emitted: 0 });
    let status = loop {
        match answer.next().await.unwrap() {
            Ok(piece) => {
                let finish = piece.finish.unwrap();
                ends.push((piece.choice_index, finish.reason(), finish.request_usage.is_some()));
            }
            Err(status) => break status,
        }
    };
    assert_eq!(
        ends,
        [
            (0, pb::FinishReason::Length, false),
            (2, pb::FinishReason::Error, false),
            (1, pb::FinishReason::Cancelled, true),
        ]
    );
    assert_eq!(status.get_details_error_info().unwrap().reason, "WORKER_LOST");
    assert!(answer.next().await.is_none());
    assert!(senders[0].is_closed(), "the other choice is cancelled");
}

#[tokio::test]
async fn a_stop_text_ends_one_choice_alone() {
    let parameters = pb::Parameters {
        n: Some(2),
        ..stopping_at(&["."])
    };
    let (mut senders, mut answer, _) = running_choices(parameters).await;
    send(&mut senders[0], 0, b"yes.");
    assert_eq!(answer.next().await.unwrap().unwrap().text, "yes");
    send(&mut senders[1], 0, b"no");
    assert_eq!(answer.next().await.unwrap().unwrap().text, "no");
    senders.remove(0).finish(finished(FinishReason::Cancelled));
    let end = answer.next().await.unwrap().unwrap();
    assert_eq!((end.choice_index, reason(&end)), (0, pb::FinishReason::Stop));
    senders.remove(0).finish(finished(FinishReason::Length));
    let (_, last, _) = read(answer).await;
    assert_eq!((last.choice_index, reason(&last)), (1, pb::FinishReason::Length));
}

#[tokio::test]
async fn the_prompts_log_probabilities_come_before_the_answer() {
    let parameters = pb::Parameters {
        prompt_logprobs: Some(1),
        ..Default::default()
    };
    let (mut sender, mut answer, _) = running(parameters).await;
    let score = TokenLogprobs {
        chosen: -2.0,
        top: vec![(u32::from(b'c'), -0.5)],
    };
    sender.prompt_logprobs(vec![score]);
    send(&mut sender, 0, b"x");
    let piece = answer.next().await.unwrap().unwrap();
    assert_eq!((piece.prompt_logprobs.len(), piece.token_ids.len()), (1, 0));
    let named = &piece.prompt_logprobs[0];
    assert_eq!((named.text.as_str(), named.logprob), ("b", -2.0), "the prompt is `ab`");
    assert_eq!(named.top[0].text, "c");
    assert_eq!(answer.next().await.unwrap().unwrap().text, "x");
}
