//! Compiles the protos in pure Rust (no protoc needed) and keeps the descriptors, comments included, for reflection.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 3] = [
    "kr/serve/v1/inference.proto",
    "kr/serve/v1/model.proto",
    "kr/worker/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=kr");
    Ok(())
}
