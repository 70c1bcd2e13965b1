//! What the router adds: the same load on a worker with fixed steps, once called directly and once through a router, in turn.
//! Prints one JSON object. Run with `cargo run --release -p kr-integration-tests --example router_overhead`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: it fails loudly and prints its figures"
)]

use std::time::{Duration, Instant};

use kr_integration_tests::{Program, Service, eventually, greedy, program, prompt};
use kr_proto::serve::{Parameters, TokenIds, generate_request::Input};
use kr_proto::worker::session_request::Message as Request;
use kr_proto::worker::session_response::Message as Response;
use kr_proto::worker::worker_service_client::WorkerServiceClient;
use kr_proto::worker::{Admit, Hello, Sampling, SessionRequest};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const ROUNDS: usize = 5;
const TOKENS: u32 = 64;
const PROMPT_TOKENS: u32 = 32;
const STEP: &str = "step_ms=5";
const CONCURRENCY: [u32; 3] = [1, 16, 64];

/// When each token of one request came, from the request's start. A step's tokens come together.
type Arrivals = Vec<Duration>;

#[tokio::main]
async fn main() {
    let mut rows = Vec::new();
    for concurrency in CONCURRENCY {
        let (mut direct, mut routed, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            eprintln!("concurrency {concurrency}, round {}/{ROUNDS}", round + 1);
            direct.extend(call_worker(concurrency).await);
            let (arrivals, per_token) = call_router(concurrency).await;
            routed.extend(arrivals);
            messages.push(per_token);
        }
        messages.sort_by(f64::total_cmp);
        rows.push(json!({
            "concurrency": concurrency,
            "direct": figures(&direct),
            "router": figures(&routed),
            "worker_messages_per_token": messages[ROUNDS / 2],
        }));
    }
    let about = json!({"rounds": ROUNDS, "tokens": TOKENS, "prompt_tokens": PROMPT_TOKENS, "fake": STEP, "rows": rows});
    println!("{about:#}");
}

/// A session of our own on a fresh worker; all sequences are admitted at once.
async fn call_worker(concurrency: u32) -> Vec<Arrivals> {
    let folder = tempfile::tempdir().unwrap();
    let address_file = folder.path().join("address");
    let mut command = Command::new(program("kr-worker"));
    command.args(["--listen", "tcp://127.0.0.1:0", "--fake", STEP, "--max-sequences", "64"]);
    command.arg("--address-file").arg(&address_file);
    let _worker = Program::start(&mut command);
    let address = eventually("the worker's address", || {
        let text = std::fs::read_to_string(&address_file).ok();
        async move { text }
    })
    .await;
    let address = address.replace("tcp://", "http://");
    let mut client = WorkerServiceClient::connect(address).await.unwrap();
    let (requests, outgoing) = mpsc::channel(128);
    let send = |message| SessionRequest { message: Some(message) };
    let hello = Hello {
        protocol_major: kr_proto::WORKER_PROTOCOL.0,
        ..Hello::default()
    };
    requests.send(send(Request::Hello(hello))).await.unwrap();
    let mut frames = client
        .session(ReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    frames.next().await.unwrap().unwrap();
    // The first round of sequences warms up.
    let mut arrivals = Vec::new();
    for first in [1, 1 + u64::from(concurrency)] {
        arrivals = vec![Vec::new(); concurrency as usize];
        let started = Instant::now();
        for index in 0..u64::from(concurrency) {
            requests.send(send(Request::Admit(admit(first + index)))).await.unwrap();
        }
        let mut left = concurrency;
        while left > 0 {
            let Some(Response::Frame(frame)) = frames.next().await.unwrap().unwrap().message else {
                continue;
            };
            let now = started.elapsed();
            for step in frame.sequences {
                let index = usize::try_from(step.sequence_id - first).unwrap();
                arrivals[index].extend(step.ids.iter().map(|_| now));
                left -= u32::from(step.finish.is_some());
            }
        }
    }
    arrivals
}

fn admit(sequence_id: u64) -> Admit {
    let sampling = Sampling {
        repetition_penalty: 1.0,
        top_p: 1.0,
        ignore_eos: true,
        ..Sampling::default()
    };
    let prompt_ids = (0..PROMPT_TOKENS).map(|id| 100 + id).collect();
    Admit {
        sequence_id,
        attempt: 1,
        prompt_ids,
        sampling: Some(sampling),
        max_tokens: TOKENS,
        ..Admit::default()
    }
}

/// The same through a fresh router: arrivals, and messages between router and worker for each token.
async fn call_router(concurrency: u32) -> (Vec<Arrivals>, f64) {
    let service = Service::fake(1, STEP)
        .configuration("[worker]\nmax_sequences = 64")
        .start()
        .await;
    route(&service, concurrency).await;
    let before = service.metric("kr_worker_messages_total", "").await;
    let arrivals = route(&service, concurrency).await;
    let messages = service.metric("kr_worker_messages_total", "").await - before;
    service.stop().await;
    (arrivals, messages / f64::from(concurrency * TOKENS))
}

async fn route(service: &Service, concurrency: u32) -> Vec<Arrivals> {
    let started = Instant::now();
    let one = || async {
        let parameters = Parameters {
            ignore_eos: Some(true),
            ..greedy(TOKENS)
        };
        let mut request = prompt("", parameters);
        request.input = Some(Input::PromptIds(TokenIds {
            ids: (0..PROMPT_TOKENS).map(|id| 100 + id).collect(),
        }));
        let mut stream = service.inference().generate(request).await.unwrap().into_inner();
        let mut arrivals = Vec::new();
        while let Some(piece) = stream.next().await {
            let now = started.elapsed();
            arrivals.extend(piece.unwrap().token_ids.iter().map(|_| now));
        }
        arrivals
    };
    futures::future::join_all((0..concurrency).map(|_| one())).await
}

fn figures(requests: &[Arrivals]) -> Value {
    let first = requests.iter().map(|arrivals| arrivals[0]).collect();
    let whole = requests.iter().map(|arrivals| arrivals[arrivals.len() - 1]).collect();
    let gaps = requests
        .iter()
        .flat_map(|arrivals| arrivals.windows(2).map(|pair| pair[1] - pair[0]))
        .collect();
    json!({"ttft_ms": percentiles(first), "inter_token_ms": percentiles(gaps), "e2e_ms": percentiles(whole)})
}

fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |percent: usize| {
        let time = times[(times.len() * percent).div_ceil(100) - 1];
        (time.as_secs_f64() * 1e6).round() / 1e3
    };
    json!({"p50": at(50), "p95": at(95), "p99": at(99)})
}
