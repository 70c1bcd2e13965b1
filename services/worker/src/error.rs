//! Why a worker does not start, or breaks off.

use std::path::PathBuf;
use std::sync::Arc;

use kr_boot::config::{self, Loaded, Problem};

use crate::config::Config;
use crate::listen;

/// Why a worker does not start, or breaks off. Configuration errors exit with 64, models that cannot be served with
/// [`NOT_LOADED`], all others with 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("wrong configuration")]
    Configuration(#[source] config::Error),
    /// Validation keeps this from happening.
    #[error("no address to listen on; give --listen")]
    NoAddress,
    #[error("cannot start telemetry")]
    Telemetry(#[source] kr_boot::telemetry::Error),
    #[error("cannot start the runtime; check the limits on threads and open files")]
    Runtime(#[source] std::io::Error),
    #[error("cannot compute")]
    Blas(#[source] kr_model::blas::Error),
    #[error("cannot start the engine")]
    Engine(#[source] kr_engine::Error),
    #[error("no random number for the instance id: {0}")]
    Random(getrandom::Error),
    #[error("cannot write {}; choose another --address-file", path.display())]
    AddressFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot serve")]
    Serve(#[source] tonic::transport::Error),
    #[error("cannot describe the service for reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The whole chain of causes.
    #[error("{0}")]
    NotLoaded(Arc<str>),
    /// The whole chain of causes.
    #[error("the engine broke off: {0}")]
    Failed(Arc<str>),
}

/// Exit code for a model whose files cannot be served: a restart will not help until they are replaced.
pub(crate) const NOT_LOADED: u8 = 65;

impl Error {
    /// Returns the error of an address that could not be bound.
    pub(crate) fn listen(error: &listen::Error, config: &Loaded<Config>) -> Self {
        let cause = std::error::Error::source(error)
            .map(|cause| format!(" ({cause})"))
            .unwrap_or_default();
        Self::setting(config, "listen", (format!("{}{cause}", error), error.cure()))
    }

    /// Returns the error of a lifeline that is none.
    pub(crate) fn lifeline(error: &std::io::Error, config: &Loaded<Config>) -> Self {
        let cure = "pass the read end of a pipe, without close-on-exec";
        Self::setting(config, "lifeline_fd", (format!("not a pipe to watch ({error})"), cure))
    }

    fn setting(config: &Loaded<Config>, key: &str, (message, cure): (String, &str)) -> Self {
        let value = match key {
            "listen" => config.value.listen.as_ref().map(|listen| format!("\"{listen}\"")),
            _ => config.value.lifeline_fd.map(|fd| fd.to_string()),
        };
        let problem = Problem {
            value,
            origin: config.origin(key),
            ..Problem::without_value(key, message, cure)
        };
        Self::Configuration(config::Error::Invalid(vec![problem]))
    }
}
