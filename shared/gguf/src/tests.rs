//! Tests over whole files, built in memory.

mod broken_files;
mod conversion;
mod file;
mod overwriting;
mod refused_models;
