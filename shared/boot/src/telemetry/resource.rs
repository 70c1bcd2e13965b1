//! Who is speaking: the attributes common to all telemetry of this process.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::config::Environment;
use crate::semantic;

/// Who is speaking.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The service, for example `kr-router`; `OTEL_SERVICE_NAME` overrides it.
    pub service: &'static str,
    /// The service's version.
    pub version: &'static str,
    /// This process among those of the service, different after a restart.
    pub instance_id: String,
    /// This process's name in its log lines.
    pub name: String,
}

/// Returns the resource: `identity`, under `OTEL_RESOURCE_ATTRIBUTES`, under `OTEL_SERVICE_NAME`.
pub(super) fn build(identity: &Identity, environment: &Environment) -> Resource {
    let mut attributes: BTreeMap<String, String> = [
        ("service.name", identity.service),
        ("service.version", identity.version),
        ("service.instance.id", &identity.instance_id),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let given = environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    attributes.extend(given.split(',').filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    }));
    if let Some(name) = environment.get("OTEL_SERVICE_NAME") {
        attributes.insert("service.name".to_owned(), name.to_owned());
    }
    let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_schema_url(attributes, semantic::SCHEMA_URL)
        .build()
}
