//! Which linear algebra library a real model would compute with, checked before one is loaded.

use kr_boot::config::Environment;

use crate::config::Config;
use crate::error::Error;

/// Checks the library and writes down what it was told.
///
/// # Errors
/// When it is not the one this worker is made for: speed and numerics would be others.
pub(crate) fn check(config: &Config, environment: &Environment) -> Result<(), Error> {
    if config.fake.is_some() {
        return Ok(());
    }
    let blas = kr_model::blas::verify().map_err(Error::Blas)?;
    let told = environment.get("OPENBLAS_NUM_THREADS");
    tracing::info!(
        library = %blas.library.display(),
        openblas = blas.openblas.as_deref(),
        threads = told,
        "linear algebra"
    );
    if let Some(threads) = config.threads
        && told != Some(threads.to_string().as_str())
    {
        tracing::warn!(
            threads,
            told,
            "set OPENBLAS_NUM_THREADS to the configured threads before starting kr-worker"
        );
    }
    Ok(())
}
