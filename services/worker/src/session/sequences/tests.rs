use kr_contract::FinishReason;
use kr_engine::frame::{Finish, Timings};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::metrics::noop::NoopMeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const ROUTER_SPAN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Returns the spans that `act` leaves.
fn spans(act: impl FnOnce()) -> Vec<SpanData> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
    exporter.get_finished_spans().unwrap()
}

fn request() -> SequenceRequest {
    SequenceRequest::new(SequenceId(7), vec![31_337, 31_338], 5)
}

fn update(ids: Vec<u32>, finish: Option<FinishReason>) -> SequenceUpdate {
    SequenceUpdate {
        id: SequenceId(7),
        start_index: 0,
        ids,
        logprobs: Vec::new(),
        prompt_logprobs: Vec::new(),
        finish: finish.map(|reason| Finish {
            reason,
            message: None,
            timings: Timings::default(),
        }),
    }
}

fn metrics() -> std::sync::Arc<Metrics> {
    Metrics::new(&NoopMeterProvider::new().meter("test"))
}

#[test]
fn a_sequence_is_one_span_below_the_router_s_with_a_child_for_each_phase() {
    let metrics = metrics();
    let spans = spans(|| {
        let mut sequences = Sequences::default();
        sequences.add(&request(), 1, ROUTER_SPAN);
        sequences.accepted(SequenceId(7));
        for token in 0..3 {
            sequences.updated(&update(vec![31_400 + token], None), &metrics);
        }
        sequences.updated(&update(vec![31_403], Some(FinishReason::Length)), &metrics);
        assert_eq!((sequences.len(), sequences.unread_tokens()), (0, 0));
    });
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["worker.waiting", "prefill", "decode", "worker.sequence"]);
    let sequence = &spans[3];
    assert_eq!(
        sequence.span_context.trace_id().to_string(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!(sequence.parent_span_id.to_string(), "b7ad6b7169203331");
    for phase in &spans[..3] {
        assert_eq!(phase.parent_span_id, sequence.span_context.span_id(), "{}", phase.name);
        assert_eq!(phase.span_context.trace_id(), sequence.span_context.trace_id());
    }
    let attribute = |name: &str| {
        let found = sequence
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == name);
        found.unwrap_or_else(|| panic!("no {name}")).value.to_string()
    };
    assert_eq!(attribute("gen_ai.usage.input_tokens"), "2");
    assert_eq!(attribute("gen_ai.usage.output_tokens"), "4");
    assert_eq!(attribute("gen_ai.response.finish_reasons"), "length");
    assert!(
        !format!("{spans:?}").contains("3133"),
        "tokens of the prompt are in a span"
    );
    assert!(!format!("{spans:?}").contains("3140"), "generated tokens are in a span");
}

#[test]
fn a_malformed_parent_starts_a_trace_of_its_own() {
    let spans = spans(|| Sequences::default().add(&request(), 1, "00-zz"));
    let sequence = spans.iter().find(|span| span.name == "worker.sequence").unwrap();
    assert!(sequence.span_context.is_valid());
    assert_eq!(sequence.parent_span_id, opentelemetry::trace::SpanId::INVALID);
}

#[test]
fn a_prompt_is_unread_until_the_engine_takes_refuses_or_ends_it() {
    let metrics = metrics();
    let heard: [fn(&mut Sequences, &Metrics); 3] = [
        |sequences, _| sequences.accepted(SequenceId(7)),
        |sequences, _| sequences.rejected(SequenceId(7), "full"),
        |sequences, metrics| sequences.updated(&update(Vec::new(), Some(FinishReason::Cancelled)), metrics),
    ];
    for hear in heard {
        let mut sequences = Sequences::default();
        sequences.add(&request(), 1, "");
        assert_eq!(sequences.unread_tokens(), 2);
        hear(&mut sequences, &metrics);
        assert_eq!(sequences.unread_tokens(), 0);
        sequences.updated(&update(vec![1], Some(FinishReason::Length)), &metrics);
        assert_eq!((sequences.len(), sequences.unread_tokens()), (0, 0));
    }
}
