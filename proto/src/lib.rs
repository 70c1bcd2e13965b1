//! The wires, compiled from `proto/kr`: what clients speak ([`serve`]) and what router and workers speak ([`worker`]).
//! Generated types and nothing else; conversions live at the edges of the services.

#![forbid(unsafe_code)]

/// All protos with their comments, encoded as a `FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `kr.serve.v1`: the client API.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod serve {
    tonic::include_proto!("kr.serve.v1");
}

/// Package `kr.worker.v1`: the wire between router and worker.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod worker {
    tonic::include_proto!("kr.worker.v1");
}

/// Version of the inner wire: major numbers must be equal, a higher minor only adds features.
pub const WORKER_PROTOCOL: (u32, u32) = (1, 0);

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    #[test]
    fn descriptors_hold_both_packages_with_their_comments() {
        let set = FileDescriptorSet::decode(super::FILE_DESCRIPTOR_SET).unwrap();
        for package in ["kr.serve.v1", "kr.worker.v1"] {
            let file = set
                .file
                .iter()
                .find(|file| file.package() == package && !file.service.is_empty())
                .unwrap();
            let locations = &file.source_code_info.as_ref().unwrap().location;
            assert!(
                locations.iter().any(|location| !location.leading_comments().is_empty()),
                "{package}"
            );
        }
    }
}
