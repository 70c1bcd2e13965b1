//! What the workers of one model must agree on. The first worker's word is taken where nothing is expected; from then on
//! every other one must say the same, so that two workers never answer one model's requests from different weights.

use std::sync::{Arc, Mutex, PoisonError};

/// Digests that are known before any worker has started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExpectedIdentity {
    /// From the configuration.
    pub(crate) model_digest: Option<Arc<str>>,
    /// Of the tokenizer that the router itself uses.
    pub(crate) tokenizer_digest: Option<Arc<str>>,
}

/// A worker has another model or tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker's {what} has digest {found}, expected is {expected}: give the worker the same files")]
pub(crate) struct Mismatch {
    what: &'static str,
    expected: Arc<str>,
    found: Arc<str>,
}

/// The identity of one model, settled by its first worker at the latest.
#[derive(Debug)]
pub(crate) struct Identity(Mutex<ExpectedIdentity>);

impl Identity {
    pub(crate) fn new(expected: ExpectedIdentity) -> Self {
        Self(Mutex::new(expected))
    }

    /// Checks a worker's digests against the settled ones, and settles those that were open.
    ///
    /// # Errors
    /// [`Mismatch`]: nothing was settled; the worker must not get any sequence.
    pub(super) fn check(&self, model_digest: &Arc<str>, tokenizer_digest: &Arc<str>) -> Result<(), Mismatch> {
        let mut settled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        compare("model", settled.model_digest.as_ref(), model_digest)?;
        compare("tokenizer", settled.tokenizer_digest.as_ref(), tokenizer_digest)?;
        settled.model_digest = Some(model_digest.clone());
        settled.tokenizer_digest = Some(tokenizer_digest.clone());
        Ok(())
    }
}

fn compare(what: &'static str, expected: Option<&Arc<str>>, found: &Arc<str>) -> Result<(), Mismatch> {
    match expected {
        Some(expected) if expected != found => Err(Mismatch {
            what,
            expected: expected.clone(),
            found: found.clone(),
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_worker_settles_what_nobody_expected() {
        let identity = Identity::new(ExpectedIdentity::default());
        identity.check(&"a".into(), &"t".into()).unwrap();
        identity.check(&"a".into(), &"t".into()).unwrap();
        let message = identity.check(&"b".into(), &"t".into()).unwrap_err().to_string();
        assert!(message.contains("model has digest b, expected is a"), "{message}");
    }

    #[test]
    fn an_expected_digest_is_held_against_the_first_worker() {
        let expected = ExpectedIdentity {
            tokenizer_digest: Some("t".into()),
            ..ExpectedIdentity::default()
        };
        let identity = Identity::new(expected);
        let message = identity.check(&"a".into(), &"u".into()).unwrap_err().to_string();
        assert!(message.contains("tokenizer has digest u, expected is t"), "{message}");
        identity.check(&"b".into(), &"t".into()).unwrap();
    }
}
