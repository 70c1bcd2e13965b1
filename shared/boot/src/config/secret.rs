//! A setting that is never shown.

use std::fmt;
use std::path::Path;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layer::Origins;
use super::{Origin, Problem, render};

const REDACTED: &str = "<redacted>";

/// What a type error on a secret calls it, so that the value can be kept out of the message.
pub(super) const EXPECTED: &str = "a secret (text)";

/// Text that neither `Debug`, serialisation nor error messages reveal.
///
/// Settings of this type are accepted from the environment only; keep longer-lived ones in a file of their own, configure
/// its path, and use [`Secret::read`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text itself. Keep it out of logs, spans, labels and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from its own file; one newline at the end is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Self(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { REDACTED }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(SecretVisitor)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }
}

/// Returns a problem for each secret that stands in a configuration file (copied, committed) or flag (seen by `ps`).
pub(super) fn misplaced<T: Serialize>(value: &T, origins: &Origins) -> Vec<Problem> {
    let secrets = render::leaves(value)
        .into_iter()
        .filter(|(_, shown)| shown.as_str() == Some(REDACTED));
    secrets
        .filter(|(key, _)| matches!(origins.of(key), Origin::File { .. } | Origin::Flag(_)))
        .map(|(key, _)| {
            Problem::without_value(
                key,
                "a secret must not be given here",
                "give it by environment variable or by a file of its own",
            )
        })
        .collect()
}
