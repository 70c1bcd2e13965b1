//! Reflection, v1 and v1alpha (older tools know only that), with the google.rpc details that our errors carry.

use tonic::service::RoutesBuilder;
use tonic_reflection::server::{Builder, Error};

/// Descriptors of everything this port speaks.
pub(crate) const DESCRIPTORS: [&[u8]; 5] = [
    kr_proto::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// What `list` shows: the services of this port, not those whose messages only happen to be described.
const SERVICES: [&str; 5] = [
    kr_proto::serve::inference_service_server::SERVICE_NAME,
    kr_proto::serve::model_service_server::SERVICE_NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Adds both versions of the reflection service.
///
/// # Errors
/// When a descriptor set cannot be decoded.
pub(crate) fn add(services: &mut RoutesBuilder) -> Result<(), Error> {
    services.add_service(builder().build_v1()?);
    services.add_service(builder().build_v1alpha()?);
    Ok(())
}

fn builder() -> Builder<'static> {
    let described = DESCRIPTORS
        .into_iter()
        .fold(Builder::configure(), Builder::register_encoded_file_descriptor_set);
    SERVICES.into_iter().fold(described, Builder::with_service_name)
}
