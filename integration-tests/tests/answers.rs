//! The main job: the real model answers, and every answer is complete and accounted for.

use kr_integration_tests::{Service, chat, generate, greedy, prompt};
use kr_proto::serve::{Exactness, FinishReason, Parameters};

#[tokio::test]
async fn the_real_model_gives_its_known_answers() {
    let service = Service::real(1).start().await;
    let answer = chat(&service, "What is 2 + 2?", greedy(40)).await.unwrap();
    assert_eq!(answer.text, "The answer to this classic math problem is 4.");
    assert_eq!(answer.finish.reason(), FinishReason::Stop);
    let (status, output) = service.stop().await;
    assert!(status.success(), "{output}");
}

#[tokio::test]
async fn every_end_has_usage_and_a_receipt_that_add_up() {
    let service = Service::real(1).start().await;
    let answer = generate(&service, prompt("Once upon a time", greedy(8))).await.unwrap();
    assert_eq!(answer.finish.reason(), FinishReason::Length);
    let usage = answer.finish.usage.unwrap();
    assert_eq!(
        (usage.completion_tokens, usage.total_tokens),
        (8, usage.prompt_tokens + 8)
    );
    assert!(usage.prompt_tokens >= 4);
    let receipt = answer.finish.receipt.unwrap();
    let time = |duration: Option<prost_types::Duration>| std::time::Duration::try_from(duration.unwrap()).unwrap();
    let parts = time(receipt.queue_time) + time(receipt.prefill_time) + time(receipt.decode_time);
    assert!(parts <= time(receipt.total_time), "{receipt:?}");
    assert!(
        time(receipt.time_to_first_token) <= time(receipt.total_time),
        "{receipt:?}"
    );
    assert_eq!((receipt.attempts, receipt.max_batch_size), (1, 1));
    let class = receipt.numerics_fingerprint.rsplit('/').next().unwrap();
    match receipt.exactness() {
        Exactness::Invariant => assert_eq!(class, "invariant"),
        Exactness::Close => assert_eq!(class, "close"),
        Exactness::Unspecified => panic!("no class: {receipt:?}"),
    }
    assert!(!receipt.worker.is_empty() && !receipt.model_digest.is_empty() && !receipt.numerics_fingerprint.is_empty());
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_alone_and_among_others() {
    let service = Service::real(1).start().await;
    let sampled = |seed| Parameters {
        temperature: Some(0.9),
        seed: Some(seed),
        ..greedy(16)
    };
    let alone = generate(&service, prompt("My favourite animal is", sampled(7)))
        .await
        .unwrap();
    let crowd = (7..13).map(|seed| generate(&service, prompt("My favourite animal is", sampled(seed))));
    let crowd: Vec<_> = join_all(crowd).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(alone.finish.receipt.unwrap().seed, 7);
    assert_eq!(crowd[0].text, alone.text);
    assert!(
        crowd.iter().any(|other| other.text != alone.text),
        "other seeds give other answers"
    );
}

#[tokio::test]
async fn a_request_without_a_seed_reports_one_that_repeats_it() {
    let service = Service::real(1).start().await;
    let sampled = Parameters {
        temperature: Some(1.0),
        ..greedy(12)
    };
    let first = generate(&service, prompt("The weather today", sampled.clone()))
        .await
        .unwrap();
    let seed = first.finish.receipt.unwrap().seed;
    let again = Parameters {
        seed: Some(seed),
        ..sampled
    };
    let second = generate(&service, prompt("The weather today", again)).await.unwrap();
    assert_eq!(first.ids, second.ids);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_before_it() {
    let service = Service::real(1).start().await;
    let whole = chat(&service, "What is 2 + 2?", greedy(40)).await.unwrap();
    let stop = Parameters {
        stop: vec!["math prob".into()],
        ..greedy(40)
    };
    let stopped = chat(&service, "What is 2 + 2?", stop).await.unwrap();
    assert_eq!(stopped.text, "The answer to this classic ");
    assert_eq!(stopped.finish.reason(), FinishReason::Stop);
    assert!(whole.text.starts_with(&stopped.text));
}

#[tokio::test]
async fn a_biased_token_is_chosen() {
    let service = Service::real(1).start().await;
    let parameters = Parameters {
        logit_bias: [(28, 100.0)].into(),
        ..greedy(3)
    };
    let answer = generate(&service, prompt("The sun rises in the", parameters))
        .await
        .unwrap();
    assert_eq!(answer.ids, [28, 28, 28]);
}

#[tokio::test]
async fn log_probabilities_come_with_each_token() {
    let service = Service::real(1).start().await;
    let parameters = Parameters {
        logprobs: Some(3),
        ..greedy(5)
    };
    let answer = generate(&service, prompt("The sun rises in the", parameters))
        .await
        .unwrap();
    assert_eq!(answer.logprobs.len(), 5);
    for (id, logprobs) in answer.ids.iter().zip(&answer.logprobs) {
        assert_eq!((logprobs.token_id, logprobs.top.len()), (*id, 3));
        assert_eq!(logprobs.top[0].token_id, *id, "greedy takes the most likely one");
        assert!(logprobs.logprob <= 0.0 && logprobs.top.is_sorted_by(|one, next| one.logprob >= next.logprob));
    }
}

#[tokio::test]
async fn the_quantised_model_answers_too() {
    let folder = kr_integration_tests::real_model("SmolLM2-135M-Instruct-4bit");
    let exact = "[worker]\nactivations = \"float32\"";
    let service = Service::of(&folder, 1).configuration(exact).start().await;
    let answer = chat(&service, "What is 2 + 2?", greedy(16)).await.unwrap();
    assert_eq!(answer.text, "The answer to this classic math problem is 4.");
    let rounded = Service::of(&folder, 1).start().await;
    let answer = chat(&rounded, "What is 2 + 2?", greedy(16)).await.unwrap();
    assert!(answer.text.contains(" 4."), "{}", answer.text);
    let fingerprint = answer.finish.receipt.unwrap().numerics_fingerprint;
    assert!(fingerprint.contains("int8"), "{fingerprint}");
}

async fn join_all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::future::join_all(futures).await
}
