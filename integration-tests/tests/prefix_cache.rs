//! KV of prompts that begin alike is shared, within one tenant and one salt, and receipts say what of it was.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use kr_integration_tests::{Answer, Service, complete, generate, generate_all, greedy, prompt};
use kr_proto::serve::{GenerateRequest, Parameters};
use tokio_stream::StreamExt as _;

/// About a hundred tokens: three blocks and a part of one.
fn long_prompt() -> String {
    "the quick brown fox jumps over the lazy dog, ".repeat(10)
}

fn cached(answer: &Answer) -> u32 {
    let (usage, receipt) = (answer.finish.usage.unwrap(), answer.finish.receipt.clone().unwrap());
    assert_eq!(usage.cached_tokens, receipt.cached_tokens);
    usage.cached_tokens
}

/// A service whose workers compute nothing and keep blocks.
fn caching(workers: u32) -> kr_integration_tests::ServiceBuilder {
    Service::fake(workers, "step_ms=1").configuration("[worker]\nprefix_cache_blocks = 256")
}

#[tokio::test]
async fn a_prompt_asked_again_comes_from_the_cache_and_its_answer_is_the_same() {
    let service = Service::real(1).start().await;
    let ask = |parameters| generate(&service, prompt(&long_prompt(), parameters));
    let first = ask(greedy(6)).await.unwrap();
    let again = ask(greedy(6)).await.unwrap();
    assert_eq!(cached(&first), 0);
    assert!(cached(&again) >= 64, "{}", cached(&again));
    assert_eq!(first.ids, again.ids);
    let receipt = again.finish.receipt.unwrap();
    assert!(
        receipt.cache_copy_bytes > 0 && receipt.cache_copy_time.is_some(),
        "{receipt:?}"
    );
    assert!(service.metric("kr_prefix_cache_hits_total", "").await >= 64.0);
    assert!(service.metric("kr_prefix_cache_blocks", "").await >= 2.0);
}

#[tokio::test]
async fn other_salts_and_bypassing_requests_share_nothing() {
    let service = caching(1).start().await;
    let ask = |parameters| generate(&service, prompt(&long_prompt(), parameters));
    let salted = |salt: &str| Parameters {
        cache_salt: Some(salt.to_owned()),
        ..greedy(4)
    };
    let bypassing = Parameters {
        bypass_prefix_cache: Some(true),
        ..greedy(4)
    };
    assert_eq!(cached(&ask(bypassing.clone()).await.unwrap()), 0);
    assert_eq!(cached(&ask(greedy(4)).await.unwrap()), 0, "what bypasses is not kept");
    assert!(cached(&ask(greedy(4)).await.unwrap()) > 0);
    assert_eq!(cached(&ask(bypassing).await.unwrap()), 0);
    assert_eq!(cached(&ask(salted("mine")).await.unwrap()), 0);
    assert!(cached(&ask(salted("mine")).await.unwrap()) > 0);
    assert_eq!(cached(&ask(salted("yours")).await.unwrap()), 0);
}

#[tokio::test]
async fn choices_of_one_request_share_their_prompt() {
    let service = caching(1).start().await;
    let parameters = Parameters {
        n: Some(3),
        ..greedy(4)
    };
    let answers = generate_all(&service, prompt(&long_prompt(), parameters))
        .await
        .unwrap();
    let mut cached: Vec<_> = answers.iter().map(cached).collect();
    cached.sort_unstable();
    assert_eq!(cached[0], 0, "one of them computed it");
    assert!(cached[1] >= 64 && cached[2] >= 64, "{cached:?}");
    let whole = answers.iter().find_map(|answer| answer.finish.request_usage).unwrap();
    assert_eq!(whole.cached_tokens, 0);
}

/// `printf %s KEY | sha256sum` of `one` and `two`.
const KEYS: &str = "first:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed
second:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3
";

#[tokio::test]
async fn tenants_share_nothing_whatever_their_salts() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, KEYS).unwrap();
    let auth = format!("[auth]\napi_keys_file = {:?}", keys.display().to_string());
    let service = caching(1).configuration(&auth).start().await;
    let ask = async |key: &str| {
        let asked: GenerateRequest = prompt(&long_prompt(), greedy(4));
        let mut request = tonic::Request::new(asked);
        let authorization = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", authorization);
        let stream = service.inference().generate(request).await.unwrap().into_inner();
        let pieces: Vec<_> = stream.map(Result::unwrap).collect().await;
        cached(&complete(pieces))
    };
    assert_eq!(ask("one").await, 0);
    assert!(ask("one").await > 0);
    assert_eq!(ask("two").await, 0);
    assert!(ask("two").await > 0);
}
