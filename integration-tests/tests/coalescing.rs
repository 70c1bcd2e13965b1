//! Identical requests in flight share one sequence, and say so.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use kr_integration_tests::{Answer, Service, generate, greedy, prompt};
use kr_proto::serve::{GenerateRequest, Parameters};
use tokio_stream::StreamExt as _;

const TOKENS: u32 = 200;

fn request() -> GenerateRequest {
    let parameters = Parameters {
        ignore_eos: Some(true),
        disable_coalescing: None,
        ..greedy(TOKENS)
    };
    prompt("Once upon a time", parameters)
}

async fn generated(service: &Service) -> f64 {
    service.metric("kr_tokens_generated_total", "").await
}

#[tokio::test]
async fn thirty_two_identical_greedy_requests_cost_about_one() {
    let service = Service::fake(1, "step_ms=10").start().await;
    let mut first = service.inference().generate(request()).await.unwrap().into_inner();
    let mut ids = first.next().await.unwrap().unwrap().token_ids;
    let others = (0..31).map(|_| generate(&service, request()));
    let others: Vec<Answer> = futures::future::join_all(others)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    while let Some(piece) = first.next().await {
        let piece = piece.unwrap();
        ids.extend(piece.token_ids);
        if let Some(finish) = piece.finish {
            assert!(!finish.receipt.unwrap().coalesced, "it came first");
        }
    }
    for other in &others {
        assert_eq!(other.ids, ids);
        let receipt = other.finish.receipt.as_ref().unwrap();
        assert_eq!((receipt.coalesced, receipt.coalesced_tokens), (true, TOKENS));
    }
    assert_eq!(generated(&service).await, f64::from(TOKENS));
    let saved = service
        .metric("kr_coalescing_tokens_saved_total", "kind=\"generated\"")
        .await;
    assert_eq!(saved, f64::from(31 * TOKENS));
}

#[tokio::test]
async fn who_declines_to_share_is_computed_alone() {
    let service = Service::fake(1, "step_ms=10").start().await;
    let mut first = service.inference().generate(request()).await.unwrap().into_inner();
    first.next().await.unwrap().unwrap();
    let mut declining = request();
    declining.parameters.as_mut().unwrap().disable_coalescing = Some(true);
    let answer = generate(&service, declining).await.unwrap();
    assert!(!answer.finish.receipt.unwrap().coalesced);
    while let Some(piece) = first.next().await {
        piece.unwrap();
    }
    assert_eq!(generated(&service).await, f64::from(2 * TOKENS));
}
