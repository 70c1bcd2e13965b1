//! Traces, metrics and logs as a real collector of another project receives them.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kr_integration_tests::{Collector, Service, ServiceBuilder, Span, eventually, generate, greedy, prompt};
use kr_proto::serve::{ChatMessage, ChatRequest, Parameters};
use tokio::time::Instant;
use tonic::Request;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Everything is sent at once, so that nothing can be late.
fn exporting_to(collector: &Collector, service: ServiceBuilder) -> ServiceBuilder {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".into()),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100".into()),
        ("KR_ROUTER__TELEMETRY__OTLP__METRICS_INTERVAL", "300ms".into()),
        ("KR_WORKER__TELEMETRY__OTLP__METRICS_INTERVAL", "300ms".into()),
    ];
    settings
        .iter()
        .fold(service, |service, (name, value)| service.environment(name, value))
}

async fn ask(service: &Service, traceparent: Option<&str>) {
    let mut request = Request::new(prompt(
        "Hello",
        Parameters {
            ignore_eos: Some(true),
            ..greedy(20)
        },
    ));
    if let Some(traceparent) = traceparent {
        request
            .metadata_mut()
            .insert("traceparent", traceparent.parse().unwrap());
    }
    let mut stream = service.inference().generate(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
}

/// Waits for as many spans, and then as long again as any could be under way.
async fn spans(collector: &Collector, count: usize) -> Vec<Span> {
    eventually("the spans", || async {
        (collector.spans().len() >= count).then_some(())
    })
    .await;
    idle(Duration::from_secs(1)).await;
    collector.spans()
}

/// Lets a stretch of time pass in which nothing should happen.
async fn idle(time: Duration) {
    let end = Instant::now() + time;
    tokio::time::sleep_until(end).await;
}

/// The service and name of each span with the name of the span it lies under; the outermost lies under "".
fn tree(spans: &[Span]) -> HashSet<(&str, &str, &str)> {
    let names: HashMap<_, _> = spans
        .iter()
        .map(|span| (span.id.as_str(), span.name.as_str()))
        .collect();
    let under = |span: &Span| names.get(span.parent_id.as_str()).copied().unwrap_or_default();
    spans
        .iter()
        .map(|span| (span.service.as_str(), span.name.as_str(), under(span)))
        .collect()
}

#[tokio::test]
async fn one_request_is_one_trace_of_router_and_worker_and_idling_is_none() {
    let collector = Collector::start().await;
    let service = exporting_to(&collector, Service::fake(1, "step_ms=2")).start().await;
    idle(Duration::from_secs(5)).await;
    assert_eq!(collector.spans(), [], "nothing was asked for");

    ask(&service, Some(&format!("00-{TRACE_ID}-{CALLER}-01"))).await;
    let found = spans(&collector, 9).await;
    assert!(
        found.iter().all(|span| span.trace_id == TRACE_ID),
        "one trace, the caller's: {found:#?}"
    );
    let request = "text_completion demo";
    let expected = HashSet::from([
        ("kr-router", request, ""),
        ("kr-router", "queued", request),
        ("kr-router", "dispatch", request),
        ("kr-router", "prefill", request),
        ("kr-router", "decode", request),
        ("kr-worker", "worker.sequence", request),
        ("kr-worker", "worker.waiting", "worker.sequence"),
        ("kr-worker", "prefill", "worker.sequence"),
        ("kr-worker", "decode", "worker.sequence"),
    ]);
    assert_eq!(tree(&found), expected);
    assert_eq!(found.len(), expected.len(), "none comes twice: {found:#?}");
    let root = found.iter().find(|span| span.name == request).unwrap();
    assert_eq!(root.parent_id, CALLER);

    ask(&service, Some("00-nonsense-01")).await;
    let found = spans(&collector, 18).await;
    let second = found.iter().rfind(|span| span.name == request).unwrap();
    assert_eq!(
        (found.len(), second.parent_id.as_str()),
        (18, ""),
        "a malformed traceparent is a new root"
    );
    assert_ne!(second.trace_id, TRACE_ID);
}

#[tokio::test]
async fn metrics_and_logs_of_both_processes_arrive() {
    let collector = Collector::start().await;
    let service = exporting_to(&collector, Service::fake(1, "step_ms=2")).start().await;
    ask(&service, None).await;
    let names = [
        "gen_ai.server.time_to_first_token",
        "kr.batch.step.duration",
        "kr.tokens.generated",
    ];
    let logs = ["request finished", "Str(kr-router)", "Str(kr-worker)", "LogRecord #"];
    for part in names.iter().chain(&logs) {
        eventually(part, || async { collector.output().contains(part).then_some(()) }).await;
    }
}

#[tokio::test]
async fn text_of_requests_and_answers_is_in_no_log_span_or_metric() {
    const MARKER: &str = "xylophonist-quokka";
    let collector = Collector::start().await;
    let service = exporting_to(&collector, Service::fake(1, "step_ms=1"));
    let loud = [
        ("KR_ROUTER__TELEMETRY__LEVEL", "trace"),
        ("KR_WORKER__TELEMETRY__LEVEL", "trace"),
    ];
    let service = loud
        .iter()
        .fold(service, |service, (name, value)| service.environment(name, value));
    let mut service = service.start().await;

    let stop = Parameters {
        stop: vec![MARKER.into()],
        cache_salt: Some(MARKER.into()),
        ..greedy(24)
    };
    let answer = generate(
        &service,
        prompt(
            MARKER,
            Parameters {
                ignore_eos: Some(true),
                ..stop
            },
        ),
    )
    .await
    .unwrap();
    assert!(answer.text.len() > 20, "{:?}", answer.text);
    let message = |role: &str| ChatMessage {
        role: role.into(),
        content: MARKER.into(),
    };
    for role in ["user", MARKER] {
        let request = ChatRequest {
            messages: vec![message(role)],
            parameters: Some(greedy(2)),
            ..ChatRequest::default()
        };
        if let Ok(stream) = service.inference().chat(request).await {
            let mut stream = stream.into_inner();
            while stream.message().await.unwrap().is_some() {}
        }
    }
    let mut unknown = prompt(MARKER, greedy(1));
    unknown.model = MARKER.into();
    assert!(generate(&service, unknown).await.is_err());
    let wrong = Parameters {
        stop: vec![MARKER.repeat(100)],
        ..greedy(1)
    };
    assert!(generate(&service, prompt(MARKER, wrong)).await.is_err());

    eventually("the finished requests in the log", || async {
        collector.output().contains("request finished").then_some(())
    })
    .await;
    idle(Duration::from_secs(1)).await;
    let (_, metrics) = service.get("/metrics").await;
    let places = [
        ("collector", collector.output()),
        ("metrics", metrics),
        ("log", service.router().output()),
    ];
    let beginning: String = answer.text.chars().take(20).collect();
    for (place, text) in places {
        assert!(!text.is_empty(), "{place}");
        for secret in [MARKER, &answer.text, &beginning] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret:?} is in the {place}");
        }
    }
}

#[tokio::test]
async fn a_dead_collector_costs_telemetry_only() {
    let collector = Collector::start().await;
    let port = collector.port();
    let service = exporting_to(&collector, Service::fake(1, "step_ms=2")).start().await;
    ask(&service, None).await;
    spans(&collector, 9).await;
    collector.kill().await;
    for _ in 0..5 {
        let started = Instant::now();
        ask(&service, None).await;
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "it took {:?}",
            started.elapsed()
        );
    }
    eventually("counted losses", || async {
        (service.metric("kr_telemetry_dropped_total", "signal=\"traces\"").await >= 9.0).then_some(())
    })
    .await;
    let collector = Collector::start_on(port).await;
    eventually("spans after the collector's return", || async {
        ask(&service, None).await;
        (!collector.spans().is_empty()).then_some(())
    })
    .await;
    let started = Instant::now();
    collector.kill().await;
    let (status, output) = service.stop().await;
    assert!(status.success(), "{output}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "the last flush is bounded: {:?}",
        started.elapsed()
    );
}
