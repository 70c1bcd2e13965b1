//! Tests over whole files, built in memory.

mod architectures;
mod broken_files;
mod conversion;
mod file;
mod inspection;
mod overwriting;
mod refused_models;
mod split;
mod tokenizers;
mod types;
