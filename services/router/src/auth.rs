//! API keys: who a caller is. A key is only ever kept as its SHA-256, and compared in constant time.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use crate::call::Call;
use crate::error::Error;
use crate::sequence::Tenant;
use crate::server::refuse;

/// Methods that probes call, which have no key.
const OPEN: &str = "/grpc.health.v1.Health/";

/// The keys that may call. Empty: everybody may, as tenant `default`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ApiKeys(Arc<[ApiKey]>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct ApiKey {
    tenant: Tenant,
    digest: [u8; 32],
}

/// A line of the file of keys that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not `ID:SHA256`: an id of letters, digits, `-`, `_` or `.`, a colon, 64 hexadecimal digits")]
pub(crate) struct MalformedKey {
    line: usize,
}

/// A file of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error("cannot be read")]
    Unreadable(#[from] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] MalformedKey),
    #[error("has no key; without keys nobody could call")]
    Empty,
}

impl ApiKeys {
    /// Reads a file of keys: one `ID:SHA256` a line; empty lines and those that begin with `#` do not count.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyFileError> {
        let keys = parse(&std::fs::read_to_string(path)?)?;
        if keys.is_empty() {
            return Err(KeyFileError::Empty);
        }
        Ok(Self(keys.into()))
    }

    /// Returns the tenant that `headers` belong to.
    fn tenant(&self, headers: &HeaderMap) -> Result<Tenant, Error> {
        let value = headers.get("authorization").and_then(|value| value.to_str().ok());
        let (scheme, key) = value
            .and_then(|value| value.split_once(' '))
            .ok_or(Error::Unauthenticated { given: value.is_some() })?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Error::Unauthenticated { given: true });
        }
        let digest: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        let mut found = None;
        // All keys are looked at, whichever it is.
        for candidate in self.0.iter() {
            if equal(&candidate.digest, &digest) {
                found = Some(candidate.tenant.clone());
            }
        }
        found.ok_or(Error::Unauthenticated { given: true })
    }
}

/// Compares in a time that does not depend on where the difference is.
fn equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0, |seen, (one, other)| seen | (one ^ other));
    std::hint::black_box(difference) == 0
}

fn parse(text: &str) -> Result<Vec<ApiKey>, MalformedKey> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    keys.map(|(number, line)| key(line).ok_or(MalformedKey { line: number }))
        .collect()
}

fn key(line: &str) -> Option<ApiKey> {
    let (id, digits) = line.split_once(':')?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let hexadecimal = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if id.is_empty() || !id.bytes().all(allowed) || !hexadecimal {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(ApiKey {
        tenant: Tenant(id.into()),
        digest,
    })
}

/// The layer that knows the caller: puts the tenant into the [`Call`], or answers UNAUTHENTICATED.
pub(crate) async fn authenticate(State(keys): State<ApiKeys>, mut request: Request, next: Next) -> Response {
    if keys.0.is_empty() || request.uri().path().starts_with(OPEN) {
        return next.run(request).await;
    }
    let tenant = keys.tenant(request.headers());
    match (tenant, request.extensions_mut().get_mut::<Call>()) {
        (Ok(tenant), Some(call)) => call.tenant = tenant,
        (Ok(_), None) => {}
        (Err(error), call) => {
            let call = call.cloned();
            return refuse(&error, call.as_ref());
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `sesame`.
    const SESAME: &str = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";

    fn keys() -> ApiKeys {
        ApiKeys(
            parse(&format!("# who\n\nacme:{SESAME}\nother:{}\n", "0".repeat(64)))
                .unwrap()
                .into(),
        )
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(axum::http::header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn a_known_key_names_its_tenant() {
        assert_eq!(keys().tenant(&headers("Bearer sesame")).unwrap(), Tenant("acme".into()));
    }

    #[test]
    fn other_keys_and_schemes_are_refused() {
        for wrong in ["Bearer Sesame", "Basic sesame", "Bearer ", &format!("Bearer {SESAME}")] {
            let refused = keys().tenant(&headers(wrong));
            assert!(
                matches!(refused, Err(Error::Unauthenticated { given: true })),
                "{wrong}"
            );
        }
        let refused = keys().tenant(&HeaderMap::new());
        assert!(matches!(refused, Err(Error::Unauthenticated { given: false })));
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, line) in [
            ("acme", 1),
            ("\nacme:12", 2),
            (&format!("a b:{SESAME}"), 1),
            (&format!(":{SESAME}"), 1),
            (&format!("acme:+f{}", &SESAME[2..]), 1),
        ] {
            assert_eq!(parse(text), Err(MalformedKey { line }), "{text}");
        }
    }
}
