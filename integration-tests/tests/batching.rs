//! Many requests in one batch give the answers they would give alone, as far as the exactness class allows; and the batch costs
//! few messages.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

use std::time::Duration;

use kr_integration_tests::{Answer, Service, generate, greedy, prompt};
use kr_proto::serve::{Exactness, Parameters};

/// Largest difference of a log probability between two schedules, of the class CLOSE (docs/benchmarks.md has what was measured).
const DELTA: f32 = 1e-3;

/// The difference that an answer's class allows.
fn delta(answer: &Answer) -> f32 {
    match answer.finish.receipt.as_ref().unwrap().exactness() {
        Exactness::Invariant => 0.0,
        Exactness::Close | Exactness::Unspecified => DELTA,
    }
}

const SUBJECTS: [&str; 8] = [
    "The history of the lighthouse",
    "In the middle of the night, a small sound",
    "def fibonacci(n):",
    "Dear Sir or Madam,",
    "Water boils at a temperature that depends on",
    "1, 2, 4, 8,",
    "She opened the letter and",
    "The three most important ideas in this chapter are",
];

fn mixed_prompt(index: usize) -> String {
    let subject = SUBJECTS[index % SUBJECTS.len()];
    let length = index * 5 % 7;
    format!(
        "{}{subject}",
        "It is a long story, and it begins far away. ".repeat(length)
    )
}

/// The log probabilities show how near a tie was: both answers' first difference must be one.
fn assert_explained(alone: &Answer, batched: &Answer, name: &str) {
    let Some(at) = alone.ids.iter().zip(&batched.ids).position(|(one, other)| one != other) else {
        assert_eq!(alone.ids.len(), batched.ids.len(), "{name}");
        return;
    };
    let top = &alone.logprobs[at].top;
    let other = top.iter().find(|candidate| candidate.token_id == batched.ids[at]);
    let other = other.unwrap_or_else(|| {
        panic!(
            "{name}: token {at} is no near tie: {top:?}, batched {}",
            batched.ids[at]
        )
    });
    let (gap, allowed) = (top[0].logprob - other.logprob, 2.0 * delta(batched));
    assert!(
        gap <= allowed,
        "{name}: token {at} differs with a gap of {gap}, allowed {allowed}"
    );
}

#[tokio::test]
async fn thirty_two_mixed_requests_joining_and_leaving_answer_as_they_do_alone() {
    let service = Service::real(1).start().await;
    let request = |index: usize| {
        let parameters = Parameters {
            logprobs: Some(5),
            ignore_eos: Some(true),
            ..greedy(6 + u32::try_from(index).unwrap() % 11)
        };
        prompt(&mixed_prompt(index), parameters)
    };
    let mut alone = Vec::new();
    for index in 0..32 {
        alone.push(generate(&service, request(index)).await.unwrap());
    }
    let batched = (0..32).map(|index| {
        let service = &service;
        async move {
            let pause = Duration::from_millis((index as u64 * 37) % 400);
            tokio::time::sleep(pause).await;
            generate(service, request(index)).await.unwrap()
        }
    });
    let batched = futures::future::join_all(batched).await;
    let largest = batched
        .iter()
        .map(|answer| answer.finish.receipt.as_ref().unwrap().max_batch_size)
        .max()
        .unwrap();
    assert!(largest >= 8, "they really ran together: {largest}");
    let mut largest_difference = 0.0_f32;
    for (index, (alone, batched)) in alone.iter().zip(&batched).enumerate() {
        assert_explained(alone, batched, &format!("request {index}"));
        let same = alone
            .ids
            .iter()
            .zip(&batched.ids)
            .take_while(|(one, other)| one == other)
            .count();
        for (one, other) in alone.logprobs.iter().zip(&batched.logprobs).take(same) {
            largest_difference = largest_difference.max((one.logprob - other.logprob).abs());
        }
    }
    let allowed = delta(&batched[0]);
    assert!(
        largest_difference <= allowed,
        "they differ by {largest_difference}, allowed {allowed}"
    );
}

#[tokio::test]
async fn a_batch_of_sixteen_costs_at_most_a_tenth_of_a_message_for_each_token() {
    let service = Service::fake(1, "step_ms=5").start().await;
    let before = service.metric("kr_worker_messages_total", "").await;
    let requests = (0..16).map(|index| {
        let parameters = Parameters {
            ignore_eos: Some(true),
            ..greedy(64)
        };
        generate(&service, prompt(&mixed_prompt(index), parameters))
    });
    let tokens: usize = futures::future::join_all(requests)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().ids.len())
        .sum();
    assert_eq!(tokens, 16 * 64);
    let messages = service.metric("kr_worker_messages_total", "").await - before;
    assert!(
        messages > 0.0 && messages / tokens as f64 <= 0.1,
        "{messages} messages for {tokens} tokens"
    );
}
