use super::*;

fn tokens(start_index: u32, ids: &[u32]) -> Tokens {
    Tokens {
        start_index,
        ids: ids.to_vec(),
        logprobs: Vec::new(),
    }
}

fn stream_with(unread_tokens: usize) -> (SequenceSender, SequenceStream, Arc<Cancellations>) {
    let cancellations = Arc::new(Cancellations::default());
    let limits = StreamLimits {
        unread_tokens,
        ..StreamLimits::default()
    };
    let (sender, stream) = channel(SequenceKey(7), cancellations.clone(), limits);
    (sender, stream, cancellations)
}

#[tokio::test]
async fn unread_tokens_are_merged_without_gap() {
    let (mut sender, mut stream, _) = stream_with(8);
    let now = Instant::now();
    sender.tokens(tokens(0, &[1]), now).unwrap();
    sender.tokens(tokens(1, &[2, 3]), now).unwrap();
    assert_eq!(stream.recv().await, Some(SequenceEvent::Tokens(tokens(0, &[1, 2, 3]))));
    sender.tokens(tokens(3, &[4]), now).unwrap();
    assert_eq!(stream.recv().await, Some(SequenceEvent::Tokens(tokens(3, &[4]))));
}

#[tokio::test]
async fn the_end_comes_after_unread_tokens_and_once() {
    let (mut sender, mut stream, _) = stream_with(8);
    sender.tokens(tokens(0, &[1]), Instant::now()).unwrap();
    sender.fail(Failed::SlowConsumer);
    assert_eq!(stream.recv().await, Some(SequenceEvent::Tokens(tokens(0, &[1]))));
    assert_eq!(stream.recv().await, Some(SequenceEvent::Failed(Failed::SlowConsumer)));
    assert_eq!(stream.recv().await, None);
}

#[test]
fn a_full_stream_refuses_tokens() {
    let (mut sender, _stream, _) = stream_with(2);
    let now = Instant::now();
    sender.tokens(tokens(0, &[1]), now).unwrap();
    sender.tokens(tokens(1, &[2]), now).unwrap();
    assert_eq!(sender.tokens(tokens(2, &[3]), now), Err(TooSlow));
}

#[tokio::test]
async fn a_reader_that_stalls_is_too_slow_and_one_that_reads_is_not() {
    let (mut sender, mut stream, _) = stream_with(100);
    let start = Instant::now();
    let late = start + StreamLimits::default().stall + Duration::from_millis(1);
    sender.tokens(tokens(0, &[1]), start).unwrap();
    stream.recv().await.unwrap();
    sender.tokens(tokens(1, &[2]), late).unwrap();
    assert_eq!(sender.tokens(tokens(2, &[3]), late + (late - start)), Err(TooSlow));
}

#[tokio::test]
async fn dropping_a_stream_cancels_and_says_why() {
    let (_sender, stream, cancellations) = stream_with(1);
    drop(stream);
    assert_eq!(
        cancellations.taken().await,
        [(SequenceKey(7), CancelReason::ClientGone)]
    );
    let (_sender, mut stream, cancellations) = stream_with(1);
    stream.stop_text_found();
    assert_eq!(cancellations.taken().await, [(SequenceKey(7), CancelReason::StopText)]);
}

#[tokio::test]
async fn a_stream_that_ended_cancels_nothing() {
    let (sender, mut stream, cancellations) = stream_with(1);
    drop(sender);
    assert_eq!(stream.recv().await, Some(SequenceEvent::Failed(Failed::Draining)));
    drop(stream);
    assert!(lock(&cancellations.list).is_empty());
}

#[tokio::test]
async fn the_prompts_log_probabilities_come_once_whoever_computes_them() {
    let (mut sender, mut stream, _) = stream_with(8);
    let scores = |chosen: &[f32]| -> Vec<TokenLogprobs> {
        let score = |chosen: &f32| TokenLogprobs {
            chosen: *chosen,
            top: Vec::new(),
        };
        chosen.iter().map(score).collect()
    };
    sender.prompt_logprobs(scores(&[-1.0, -2.0]));
    assert_eq!(
        stream.recv().await,
        Some(SequenceEvent::PromptLogprobs(scores(&[-1.0, -2.0])))
    );
    sender.accepted(Accepted {
        worker: "w".into(),
        exactness: kr_contract::Exactness::Close,
        numerics_fingerprint: "f".into(),
        model_digest: "d".into(),
        attempts: 2,
        queue_time: Duration::ZERO,
        coalesced: false,
    });
    assert!(matches!(stream.recv().await, Some(SequenceEvent::Accepted(_))));
    sender.prompt_logprobs(scores(&[-1.0]));
    sender.prompt_logprobs(scores(&[-2.0, -3.0]));
    sender.tokens(tokens(0, &[1]), Instant::now()).unwrap();
    assert_eq!(
        stream.recv().await,
        Some(SequenceEvent::PromptLogprobs(scores(&[-3.0])))
    );
    assert_eq!(stream.recv().await, Some(SequenceEvent::Tokens(tokens(0, &[1]))));
}
