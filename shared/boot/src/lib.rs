//! What every kr process does before and after its real work: read configuration, start telemetry, stop cleanly.
//!
//! Knows nothing of requests, models or gRPC services. The process environment is read here and nowhere else.
#![forbid(unsafe_code)]

pub mod buckets;
pub mod config;
pub mod exit;
mod folders;
pub mod semantic;
pub mod shutdown;
pub mod telemetry;

pub use config::{Environment, Loaded, Problem, Secret, Validate};
pub use folders::{cache_folder, model_folder, models_folder, no_color};
pub use shutdown::Shutdown;
pub use telemetry::{Telemetry, TelemetryConfig};
