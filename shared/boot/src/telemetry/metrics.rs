//! One meter provider with two readers: the collector's and Prometheus'.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, PeriodicReader, SdkMeterProvider, Stream, Temporality};
use prometheus::{Registry, TextEncoder};

use super::delivery::Delivery;
use super::{Error, OtlpConfig, endpoint};
use crate::buckets::Buckets;

type Reader = PeriodicReader<Counted<opentelemetry_otlp::MetricExporter>>;

/// Returns the reader that exports to `endpoint` in intervals. Needs a tokio runtime around it.
pub(super) fn reader(config: &OtlpConfig, endpoint: String, delivery: &Arc<Delivery>) -> Result<Reader, Error> {
    let builder = opentelemetry_otlp::MetricExporter::builder().with_tonic();
    let exporter = endpoint::connect(builder, config, &endpoint)?
        .build()
        .map_err(|source| Error::Exporter { endpoint, source })?;
    let counted = Counted {
        exporter,
        delivery: delivery.clone(),
    };
    Ok(PeriodicReader::builder(counted)
        .with_interval(config.metrics_interval)
        .build())
}

/// Returns the provider that feeds `registry` and, if there is one, `reader`.
pub(super) fn provider(
    registry: &Registry,
    reader: Option<Reader>,
    resource: Resource,
    buckets: &[Buckets],
) -> Result<SdkMeterProvider, Error> {
    let prometheus = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(Error::Prometheus)?;
    let boundaries: HashMap<&'static str, &'static [f64]> = buckets
        .iter()
        .map(|histogram| (histogram.instrument, histogram.boundaries))
        .collect();
    let view = move |instrument: &Instrument| {
        let boundaries = boundaries.get(instrument.name())?.to_vec();
        let aggregation = Aggregation::ExplicitBucketHistogram {
            boundaries,
            record_min_max: true,
        };
        Stream::builder().with_aggregation(aggregation).build().ok()
    };
    let builder = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(prometheus)
        .with_view(view);
    Ok(match reader {
        Some(reader) => builder.with_reader(reader).build(),
        None => builder.build(),
    })
}

/// Returns all metrics in `registry` in Prometheus' text format.
pub(super) fn render(registry: &Registry) -> String {
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "metrics cannot be rendered");
            String::new()
        })
}

/// An exporter that counts the metrics it fails to send.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    delivery: Arc<Delivery>,
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let count = metrics.scope_metrics().map(|scope| scope.metrics().count()).sum();
        let result = self.exporter.export(metrics).await;
        self.delivery.settle(count, &result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
