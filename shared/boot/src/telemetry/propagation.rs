//! W3C trace context across processes. A malformed one is ignored: the span then starts a trace of its own.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::MetadataMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

/// Returns `span` as a `traceparent` header; `None` if it is not traced (no collector, or filtered out).
pub fn inject_traceparent(span: &Span) -> Option<String> {
    carrier(span).remove(TRACEPARENT)
}

/// Makes `span` a child of the span that `traceparent` names, also if that was made in another process. To be called
/// before `span` is entered.
pub fn set_parent(span: &Span, traceparent: &str) {
    adopt(span, &HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]));
}

/// Makes `span` a child of the caller's, by the `traceparent` and `tracestate` of HTTP headers. To be called before
/// `span` is entered.
pub fn extract_headers(span: &Span, headers: &HeaderMap) {
    adopt(span, &Headers(headers));
}

/// Makes `span` a child of the caller's, by the `traceparent` and `tracestate` of gRPC metadata. To be called before
/// `span` is entered.
pub fn extract_metadata(span: &Span, metadata: &MetadataMap) {
    adopt(span, &Headers(metadata.as_ref()));
}

/// Adds `traceparent` and `tracestate` of `span` to the metadata of a call to another process.
pub fn inject_metadata(span: &Span, metadata: &mut MetadataMap) {
    for (name, value) in carrier(span) {
        let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = (name, value)
            && !value.is_empty()
        {
            metadata.as_mut().insert(name, value);
        }
    }
}

fn carrier(span: &Span) -> HashMap<String, String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier
}

fn adopt(span: &Span, carrier: &dyn Extractor) {
    let context = TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), carrier);
    if context.span().span_context().is_valid() {
        // Fails where the span is not traced, and then nothing is lost.
        let _ = span.set_parent(context);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
