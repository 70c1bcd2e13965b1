use std::io::Write;
use std::sync::{Arc, Mutex};

use opentelemetry::KeyValue;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::trace::Sampler;
use serde::{Deserialize, Serialize};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::endpoint::Endpoints;
use super::*;
use crate::config::{self, Flags, Problem, Sources, Validate};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn identity() -> Identity {
    Identity {
        service: "kr-test",
        version: "1.2.3",
        instance_id: "instance-1".to_owned(),
        name: "kr-test".to_owned(),
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn quiet(buckets: &[Buckets]) -> Telemetry {
    let (config, environment) = (TelemetryConfig::default(), Environment::default());
    Telemetry::build(Start {
        config: &config,
        environment: &environment,
        identity: identity(),
        buckets,
    })
    .unwrap()
    .0
}

/// Runs `body` where spans are traced but exported nowhere.
fn traced(body: impl FnOnce()) {
    let tracer = SdkTracerProvider::builder().build().tracer_with_scope(scope("kr"));
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(filter::without_feedback(Level::Trace).unwrap());
    tracing::subscriber::with_default(Registry::default().with(layer), body);
}

#[test]
fn instruments_show_up_for_prometheus_with_help_unit_and_their_own_buckets() {
    let telemetry = quiet(&[Buckets::new("kr.request.queue_time", &[0.5, 2.0])]);
    let meter = telemetry.meter("kr.test");
    let queue_time = meter
        .f64_histogram("kr.request.queue_time")
        .with_unit("s")
        .with_description("Time in the queue")
        .build();
    queue_time.record(1.0, &[KeyValue::new("model", "a")]);
    let text = telemetry.render_prometheus();
    for line in [
        "# HELP kr_request_queue_time_seconds Time in the queue",
        "# TYPE kr_request_queue_time_seconds histogram",
        "kr_request_queue_time_seconds_bucket{model=\"a\",le=\"0.5\"} 0",
        "kr_request_queue_time_seconds_bucket{model=\"a\",le=\"2\"} 1",
        "kr_telemetry_dropped_total{reason=\"queue_full\",signal=\"traces\"} 0",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains("service_name=\"kr-test\"") && text.contains("service_instance_id=\"instance-1\""),
        "{text}"
    );
    assert_eq!(text.matches("kr_request_queue_time_seconds_bucket").count(), 3);
}

#[test]
fn signals_go_where_the_most_specific_setting_says() {
    let mut config = TelemetryConfig::default();
    let resolve = |config: &TelemetryConfig, variables: &[(&str, &str)]| {
        endpoint::resolve(config, &environment(variables)).unwrap()
    };
    let all = |endpoint: &str| {
        let endpoint = Some(endpoint.to_owned());
        Endpoints {
            traces: endpoint.clone(),
            metrics: endpoint.clone(),
            logs: endpoint,
        }
    };
    let shared = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://shared:4317");
    assert_eq!(resolve(&config, &[]), Endpoints::default());
    assert_eq!(resolve(&config, &[shared]), all("http://shared:4317"));
    assert_eq!(
        resolve(&config, &[shared, ("OTEL_SDK_DISABLED", "TRUE")]),
        Endpoints::default()
    );
    assert_eq!(
        resolve(
            &config,
            &[
                shared,
                ("OTEL_LOGS_EXPORTER", "none"),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:1")
            ]
        ),
        Endpoints {
            traces: Some("http://own:1".to_owned()),
            logs: None,
            ..all("http://shared:4317")
        }
    );
    config.otlp.endpoint = Some("http://configured:4317".to_owned());
    assert_eq!(resolve(&config, &[shared]), all("http://configured:4317"));
}

#[test]
fn the_http_protocol_is_refused_by_name() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ];
    let error = endpoint::resolve(&TelemetryConfig::default(), &environment(&variables)).unwrap_err();
    assert!(
        error.is_configuration()
            && error
                .to_string()
                .starts_with("OTEL_EXPORTER_OTLP_PROTOCOL = \"http/protobuf\"")
    );
    assert!(endpoint::resolve(&TelemetryConfig::default(), &environment(&variables[1..])).is_ok());
}

#[test]
fn the_sampler_is_the_configured_ratio_or_the_standard_variable() {
    let mut config = TelemetryConfig::default();
    let sampler = |config: &TelemetryConfig, name: &str, argument: &str| {
        let variables = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)];
        traces::sampler(config, &environment(&variables)).map(|sampler| format!("{sampler:?}"))
    };
    let shown = |sampler: Sampler| format!("{sampler:?}");
    let parent_based = |root| shown(Sampler::ParentBased(Box::new(root)));
    assert_eq!(sampler(&config, "", "").unwrap(), parent_based(Sampler::AlwaysOn));
    assert_eq!(sampler(&config, "always_off", "").unwrap(), shown(Sampler::AlwaysOff));
    assert_eq!(
        sampler(&config, "parentbased_traceidratio", "0.25").unwrap(),
        parent_based(Sampler::TraceIdRatioBased(0.25))
    );
    for (name, argument, culprit) in [
        ("sometimes", "", "OTEL_TRACES_SAMPLER = "),
        ("traceidratio", "2", "OTEL_TRACES_SAMPLER_ARG = "),
    ] {
        assert!(
            sampler(&config, name, argument)
                .unwrap_err()
                .to_string()
                .starts_with(culprit)
        );
    }
    config.otlp.sample_ratio = Some(0.5);
    assert_eq!(
        sampler(&config, "always_off", "").unwrap(),
        parent_based(Sampler::TraceIdRatioBased(0.5))
    );
}

#[test]
fn the_resource_follows_the_standard_variables() {
    let variables = [
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment=lab, service.name=ignored",
        ),
        ("OTEL_SERVICE_NAME", "mine"),
    ];
    let resource = resource::build(&identity(), &environment(&variables));
    let value = |name: &'static str| {
        resource
            .get(&name.into())
            .map(|value| value.to_string())
            .unwrap_or_default()
    };
    assert_eq!(value("service.name"), "mine");
    assert_eq!(value("service.version"), "1.2.3");
    assert_eq!(value("deployment.environment"), "lab");
    assert_eq!(value("telemetry.sdk.language"), "rust");
    assert_eq!(resource.schema_url(), Some(semantic::SCHEMA_URL));
}

#[test]
fn crates_that_carry_exports_are_never_exported() {
    traced(|| {
        let carriers = [
            tracing::error_span!(target: "h2::codec", "x"),
            tracing::error_span!(target: "hyper_util::client", "x"),
            tracing::error_span!(target: "tonic::transport", "x"),
            tracing::error_span!(target: "tower::buffer", "x"),
            tracing::error_span!(target: "opentelemetry_sdk", "x"),
        ];
        assert!(carriers.iter().all(tracing::Span::is_disabled), "{carriers:?}");
        assert!(!tracing::trace_span!(target: "kr_router::queue", "x").is_disabled());
        assert!(!tracing::info_span!(target: "axum", "x").is_disabled());
        assert!(tracing::debug_span!(target: "axum", "x").is_disabled());
    });
}

#[test]
fn a_trace_continues_across_processes() {
    traced(|| {
        let span = tracing::info_span!(target: "kr_test", "child");
        set_parent(&span, PARENT);
        let sent_on = inject_traceparent(&span).unwrap();
        assert_eq!(&sent_on[..36], &PARENT[..36]);
        assert_ne!(&sent_on[36..], &PARENT[36..]);
    });
}

#[test]
fn a_malformed_trace_context_starts_a_new_trace() {
    traced(|| {
        for wrong in [
            "",
            "x",
            "00-0-0-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &PARENT[..40],
            "ff-é",
        ] {
            let span = tracing::info_span!(target: "kr_test", "root");
            set_parent(&span, wrong);
            let context = span.context();
            let trace = context.span().span_context().trace_id();
            assert!(
                context.span().span_context().is_valid() && !PARENT.contains(&trace.to_string()),
                "{wrong}"
            );
        }
    });
}

#[test]
fn spans_that_are_not_traced_have_no_trace_context() {
    let span = tracing::info_span!(target: "kr_test", "untraced");
    set_parent(&span, PARENT);
    assert_eq!(inject_traceparent(&span), None);
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = Registry::default().with(console::layer(format, "kr-test \"a\"", move || writer.clone()));
    tracing::subscriber::with_default(subscriber, || {
        let _request = tracing::info_span!("generate", request_id = "r1").entered();
        tracing::warn!(worker = 3, "worker lost");
    });
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn log_lines_are_json_objects_or_text_as_configured() {
    let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
    assert_eq!(
        (
            line["message"].as_str(),
            line["worker"].as_u64(),
            line["level"].as_str()
        ),
        (Some("worker lost"), Some(3), Some("WARN"))
    );
    assert_eq!(line["span"]["request_id"], "r1");
    assert_eq!(line["process"], "kr-test \"a\"");
    let text = logged(LogFormat::Human);
    assert!(
        text.contains("worker lost") && text.starts_with("kr-test \"a\" "),
        "{text}"
    );
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Service {
    telemetry: TelemetryConfig,
}

impl Validate for Service {
    fn validate(&self) -> Vec<Problem> {
        self.telemetry
            .validate()
            .into_iter()
            .map(|problem| problem.under("telemetry"))
            .collect()
    }
}

#[test]
fn unusable_settings_are_refused_together() {
    let environment = environment(&[
        ("KR_T__TELEMETRY__LOG_FILTER", "kr=loud"),
        ("KR_T__TELEMETRY__OTLP__ENDPOINT", "collector:4317"),
        ("KR_T__TELEMETRY__OTLP__SAMPLE_RATIO", "1.5"),
        ("KR_T__TELEMETRY__OTLP__QUEUE_CAPACITY", "0"),
        ("KR_T__TELEMETRY__OTLP__TIMEOUT", "0s"),
    ]);
    let sources = Sources {
        environment,
        env_prefix: "KR_T__",
        flags: Flags::default(),
        file: None,
    };
    let Err(config::Error::Invalid(problems)) = config::load::<Service>(sources) else {
        panic!("accepted")
    };
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "telemetry.otlp.endpoint",
            "telemetry.otlp.sample_ratio",
            "telemetry.otlp.queue_capacity",
            "telemetry.otlp.timeout",
            "telemetry.log_filter"
        ]
    );
}

#[test]
fn the_default_settings_are_valid_and_export_nothing() {
    let loaded = config::load::<Service>(Sources::default()).unwrap();
    assert_eq!(loaded.value.telemetry, TelemetryConfig::default());
    let telemetry = quiet(&[]);
    assert!(telemetry.tracers.is_none() && telemetry.loggers.is_none() && telemetry.runtime.is_none());
}

#[test]
fn a_certificate_file_that_cannot_be_read_is_a_configuration_error() {
    let mut config = TelemetryConfig::default();
    config.otlp.endpoint = Some("https://127.0.0.1:4317".to_owned());
    config.otlp.ca_file = Some("/nowhere/ca.pem".into());
    let environment = Environment::default();
    let start = Start {
        config: &config,
        environment: &environment,
        identity: identity(),
        buckets: &[],
    };
    let error = Telemetry::build(start).unwrap_err();
    assert_eq!(crate::exit::code(&error), crate::exit::CONFIGURATION);
    assert!(error.to_string().contains("/nowhere/ca.pem"));
}
