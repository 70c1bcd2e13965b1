//! Telemetry against a real OTLP/gRPC server, against none, and against one that never answers.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod collector;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use collector::Collector;
use kr_boot::buckets::Buckets;
use kr_boot::telemetry::{Identity, Level, Start, Telemetry, TelemetryConfig};
use kr_boot::{Environment, semantic};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

const BUCKETS: &[Buckets] = &[Buckets::new("kr.test.duration", &[1.0, 2.0])];

fn config(endpoint: &str) -> TelemetryConfig {
    let mut config = TelemetryConfig {
        level: Level::Trace,
        log_filter: Some("off".to_owned()),
        ..Default::default()
    };
    config.otlp.endpoint = Some(endpoint.to_owned());
    config.otlp.metrics_interval = Duration::from_secs(3600);
    config
}

fn start<'a>(config: &'a TelemetryConfig, environment: &'a Environment) -> Start<'a> {
    let identity = Identity {
        service: "kr-test",
        version: "1.2.3",
        instance_id: "i1".to_owned(),
        name: "kr-test".to_owned(),
    };
    Start {
        config,
        environment,
        identity,
        buckets: BUCKETS,
    }
}

/// The value of one series of `kr.telemetry.dropped`.
fn dropped(telemetry: &Telemetry, reason: &str, signal: &str) -> u64 {
    let series = format!("kr_telemetry_dropped_total{{reason=\"{reason}\",signal=\"{signal}\"}} ");
    let text = telemetry.render_prometheus();
    text.lines()
        .find_map(|line| line.strip_prefix(&series))
        .and_then(|value| value.parse().ok())
        .expect("no such series")
}

#[test]
fn exports_make_no_spans_of_their_own() {
    let collector = Collector::start();
    let (config, environment) = (config(&collector.endpoint), Environment::default());
    let telemetry = Telemetry::start(start(&config, &environment)).unwrap();
    for _ in 0..5 {
        tracing::info!(target: "kr_test", "idle");
        telemetry.flush();
        collector.next_logs();
        collector.next_metrics();
    }
    assert_eq!(collector.spans(), Vec::<String>::new());

    tracing::info_span!(target: "kr_test", "generate").in_scope(|| {});
    for _ in 0..3 {
        telemetry.flush();
    }
    assert_eq!(collector.spans(), ["generate"]);
    assert!(
        Telemetry::start(start(&config, &environment)).is_err(),
        "a second global subscriber was accepted"
    );
}

#[test]
fn all_three_signals_arrive_under_one_resource_and_schema() {
    let collector = Collector::start();
    let (config, environment) = (config(&collector.endpoint), Environment::default());
    let (telemetry, dispatch) = Telemetry::build(start(&config, &environment)).unwrap();
    let histogram = telemetry
        .meter("kr.test")
        .f64_histogram("kr.test.duration")
        .with_unit("s")
        .build();
    histogram.record(1.5, &[]);
    tracing::dispatcher::with_default(&dispatch, || {
        let _span = tracing::info_span!(target: "kr_test", "generate", otel.kind = "server").entered();
        tracing::warn!(target: "kr_test", worker = 3, "worker lost");
    });
    telemetry.flush();

    let traces = collector.next_traces().resource_spans.remove(0);
    let span = traces.scope_spans[0].spans[0].clone();
    let logs = collector.next_logs().resource_logs.remove(0);
    let record = logs.scope_logs[0].log_records[0].clone();
    assert_eq!(record.trace_id, span.trace_id, "the log line belongs to the span");
    assert_eq!(span.kind, 2, "server");
    let metrics = collector.next_metrics().resource_metrics.remove(0);
    let mut named = metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    let metric = named.find(|metric| metric.name == "kr.test.duration").unwrap();
    let Some(Data::Histogram(histogram)) = &metric.data else {
        panic!("{metric:?}")
    };
    assert_eq!(
        (
            &histogram.data_points[0].explicit_bounds,
            &histogram.data_points[0].bucket_counts
        ),
        (&vec![1.0, 2.0], &vec![0, 1, 0])
    );

    let schemas = [
        &traces.schema_url,
        &metrics.schema_url,
        &logs.schema_url,
        &traces.scope_spans[0].schema_url,
    ];
    assert_eq!(schemas, [semantic::SCHEMA_URL; 4]);
    for resource in [traces.resource, metrics.resource, logs.resource] {
        let shown = format!("{resource:?}");
        assert!(
            shown.contains("kr-test") && shown.contains("service.instance.id"),
            "{shown}"
        );
    }
}

#[test]
fn without_a_collector_losses_are_counted_and_nothing_else_happens() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = config(&format!("http://{unused}"));
    config.otlp.timeout = Duration::from_millis(100);
    let environment = Environment::default();
    let (telemetry, dispatch) = Telemetry::build(start(&config, &environment)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..3 {
            tracing::info_span!(target: "kr_test", "generate").in_scope(|| tracing::info!(target: "kr_test", "line"));
        }
    });
    telemetry.flush();
    assert_eq!(dropped(&telemetry, "export_failed", "traces"), 3);
    assert_eq!(dropped(&telemetry, "export_failed", "logs"), 3);
    assert!(dropped(&telemetry, "export_failed", "metrics") >= 1);
    assert_eq!(dropped(&telemetry, "queue_full", "traces"), 0);
}

#[test]
fn a_collector_that_never_answers_fills_a_bounded_buffer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", silent.local_addr().unwrap()));
    config.otlp.queue_capacity = 4;
    config.otlp.timeout = Duration::from_secs(60);
    let environment = Environment::default();
    let (telemetry, dispatch) = Telemetry::build(start(&config, &environment)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..100 {
            tracing::info_span!(target: "kr_test", "generate").in_scope(|| tracing::info!(target: "kr_test", "line"));
        }
    });
    // At most one batch of 4 is with the exporter and 4 more wait.
    assert!((92..=96).contains(&dropped(&telemetry, "queue_full", "traces")));
    assert!((92..=96).contains(&dropped(&telemetry, "queue_full", "logs")));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_collector_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", silent.local_addr().unwrap()));
    config.otlp.timeout = Duration::from_secs(60);
    let environment = Environment::default();
    let (telemetry, dispatch) = Telemetry::build(start(&config, &environment)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!(target: "kr_test", "generate").in_scope(|| {})
    });
    let begin = Instant::now();
    assert!(
        !telemetry.shutdown(Duration::from_millis(200)).await,
        "nothing was delivered"
    );
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn shutdown_sends_what_is_buffered() {
    let collector = Collector::start();
    let (config, environment) = (config(&collector.endpoint), Environment::default());
    let (telemetry, dispatch) = Telemetry::build(start(&config, &environment)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!(target: "kr_test", "last").in_scope(|| {})
    });
    assert!(telemetry.shutdown(Duration::from_secs(3)).await);
    assert_eq!(collector.spans(), ["last"]);
    tokio::task::spawn_blocking(move || drop((collector, telemetry)))
        .await
        .unwrap();
}
