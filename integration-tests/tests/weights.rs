//! Workers of one model share its weights in memory.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]
#![cfg(target_os = "linux")]

use std::collections::HashSet;

use kr_integration_tests::{Service, eventually, generate, greedy, prompt};

/// What a worker may hold beside the weights: libraries, buffers of the linear algebra, KV of a few short sequences.
const OVERHEAD_BYTES: f64 = 100e6;

/// Sum of a line of smaps_rollup over processes, in bytes.
fn total(processes: &[u32], line: &str) -> f64 {
    let of = |process: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
        let found = text
            .lines()
            .find_map(|text| text.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        found.unwrap() * 1024.0
    };
    processes.iter().map(of).sum()
}

#[tokio::test]
async fn two_workers_hold_the_weights_once() {
    let service = Service::real(2).start().await;
    eventually("two workers", || async {
        let ready = service.metric("kr_worker_up", "").await;
        (ready == 2.0).then_some(())
    })
    .await;
    let mut used = HashSet::new();
    while used.len() < 2 {
        let both = (0..2).map(|_| generate(&service, prompt("Once upon a time", greedy(8))));
        let answers = futures::future::join_all(both).await;
        used.extend(
            answers
                .into_iter()
                .map(|answer| answer.unwrap().finish.receipt.unwrap().worker),
        );
    }
    let workers = service.worker_ids();
    assert_eq!(workers.len(), 2);
    let mapped = service.metric("kr_weights_mapped_bytes", "").await / 2.0;
    assert!(mapped > 500e6, "float32 weights of 135 million parameters: {mapped}");
    let (rss, pss) = (total(&workers, "Rss:"), total(&workers, "Pss:"));
    println!("mapped {mapped}, resident {rss}, proportional {pss}");
    assert!(
        rss > 2.0 * mapped,
        "both have them in memory: {rss} resident, {mapped} mapped"
    );
    let bound = mapped + 2.0 * OVERHEAD_BYTES;
    assert!(
        pss < bound,
        "together they hold {pss}, of which the weights are {mapped}"
    );
}
