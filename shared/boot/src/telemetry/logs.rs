//! Log records to the collector.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::Severity;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord, SdkLoggerProvider,
};

use super::delivery::Delivery;
use super::{Error, OtlpConfig, endpoint};

/// Returns the provider that exports to `endpoint`. Needs a tokio runtime around it.
pub(super) fn provider(
    config: &OtlpConfig,
    endpoint: String,
    resource: Resource,
    delivery: &Arc<Delivery>,
) -> Result<SdkLoggerProvider, Error> {
    let builder = opentelemetry_otlp::LogExporter::builder().with_tonic();
    let exporter = endpoint::connect(builder, config, &endpoint)?
        .build()
        .map_err(|source| Error::Exporter { endpoint, source })?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(delivery.capacity())
        .build();
    let inner = BatchLogProcessor::builder(Counted {
        exporter,
        delivery: delivery.clone(),
    })
    .with_batch_config(batch)
    .build();
    let processor = Bounded {
        inner,
        delivery: delivery.clone(),
    };
    Ok(SdkLoggerProvider::builder()
        .with_log_processor(processor)
        .with_resource(resource)
        .build())
}

/// A processor in front of the SDK's that refuses, and counts, what its buffer could not hold.
#[derive(Debug)]
struct Bounded<P> {
    inner: P,
    delivery: Arc<Delivery>,
}

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.delivery.accept() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
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

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let records = batch.iter().count();
        self.delivery.taken(records);
        let result = self.exporter.export(batch).await;
        self.delivery.settle(records, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.exporter.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
