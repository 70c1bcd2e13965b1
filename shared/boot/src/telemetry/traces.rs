//! Spans to the collector.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};

use super::delivery::Delivery;
use super::{Error, OtlpConfig, TelemetryConfig, endpoint};
use crate::config::Environment;

/// Returns the provider that exports to `endpoint`. Needs a tokio runtime around it.
pub(super) fn provider(
    config: &OtlpConfig,
    endpoint: String,
    (resource, sampler): (Resource, Sampler),
    delivery: &Arc<Delivery>,
) -> Result<SdkTracerProvider, Error> {
    let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    let exporter = endpoint::connect(builder, config, &endpoint)?
        .build()
        .map_err(|source| Error::Exporter { endpoint, source })?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(delivery.capacity())
        .build();
    let inner = BatchSpanProcessor::builder(Counted {
        exporter,
        delivery: delivery.clone(),
    })
    .with_batch_config(batch)
    .build();
    let processor = Bounded {
        inner,
        delivery: delivery.clone(),
    };
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource)
        .with_sampler(sampler)
        .build())
}

/// Returns the sampler: the configured ratio, else `OTEL_TRACES_SAMPLER`, else everything unless a caller decided.
pub(super) fn sampler(config: &TelemetryConfig, environment: &Environment) -> Result<Sampler, Error> {
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    if let Some(ratio) = config.otlp.sample_ratio {
        return Ok(parent_based(Sampler::TraceIdRatioBased(ratio)));
    }
    match environment.get("OTEL_TRACES_SAMPLER") {
        None | Some("parentbased_always_on") => Ok(parent_based(Sampler::AlwaysOn)),
        Some("always_on") => Ok(Sampler::AlwaysOn),
        Some("always_off") => Ok(Sampler::AlwaysOff),
        Some("parentbased_always_off") => Ok(parent_based(Sampler::AlwaysOff)),
        Some("traceidratio") => ratio(environment),
        Some("parentbased_traceidratio") => Ok(parent_based(ratio(environment)?)),
        Some(other) => Err(Error::Variable {
            name: "OTEL_TRACES_SAMPLER",
            value: other.to_owned(),
            message: "unknown sampler",
            cure: "set it to always_on, always_off or traceidratio, or to one of these after parentbased_",
        }),
    }
}

fn ratio(environment: &Environment) -> Result<Sampler, Error> {
    let text = environment.get("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1");
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Sampler::TraceIdRatioBased(ratio)),
        _ => Err(Error::Variable {
            name: "OTEL_TRACES_SAMPLER_ARG",
            value: text.to_owned(),
            message: "expected a number from 0 to 1",
            cure: "set it to 1 for every trace, 0.1 for every tenth",
        }),
    }
}

/// A processor in front of the SDK's that refuses, and counts, what its buffer could not hold.
#[derive(Debug)]
struct Bounded<P> {
    inner: P,
    delivery: Arc<Delivery>,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.delivery.accept() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts what it fails to send.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    delivery: Arc<Delivery>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.delivery.taken(spans);
        let result = self.exporter.export(batch).await;
        self.delivery.settle(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
