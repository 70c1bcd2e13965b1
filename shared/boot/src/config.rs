//! Layered configuration: defaults < TOML file < environment < command-line flags.
//!
//! Knows how to merge, explain and print settings; must not know what any setting means. A service gives its own struct,
//! with `#[serde(default, deny_unknown_fields)]` on every level (and no `flatten` or `untagged`, which hide where a
//! problem is), and gets back either a complete value or every problem at once.

pub mod duration;
mod error;
mod extract;
mod file;
mod flags;
mod layer;
mod problem;
mod render;
mod secret;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use flags::Flags;
pub use problem::{Origin, Problem};
pub use secret::Secret;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use layer::{Layer, Origins};

/// A snapshot of environment variables, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the variables of this process. Names and values that are not UTF-8 are taken with replacement characters.
    pub fn of_process() -> Self {
        let text = |raw: std::ffi::OsString| raw.to_string_lossy().into_owned();
        Self(
            std::env::vars_os()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
        )
    }

    /// Returns the value of the variable `name`; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Checks that go beyond types: ranges, and fields that must agree with each other.
pub trait Validate {
    /// Returns every problem found, with keys relative to this struct (see [`Problem::under`] for nested ones).
    fn validate(&self) -> Vec<Problem>;
}

/// Where settings come from, weakest first: the file, the environment, the flags.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// A TOML file that must exist; `None` when the user named none and no default file is there.
    pub file: Option<&'a Path>,
    /// The variables to look at; see [`Environment::of_process`].
    pub environment: Environment,
    /// What configuration variables start with, for example `KR_ROUTER__`. The rest is the key: `__` separates levels.
    pub env_prefix: &'a str,
    /// Flags the user gave.
    pub flags: Flags,
}

/// A configuration together with the origin of every setting.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The settings: complete, and valid by [`Validate`].
    pub value: T,
    origins: Origins,
}

impl<T> Loaded<T> {
    /// Returns where the setting `key` (`queue.capacity`, `models.0.path`) was given.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.of(key)
    }
}

impl<T: Serialize> Loaded<T> {
    /// Returns one `key = value` line per setting. Secrets are redacted.
    pub fn render(&self) -> String {
        render::lines(&self.value, None)
    }

    /// Returns one `key = value  # origin` line per setting. Secrets are redacted.
    pub fn render_with_origins(&self) -> String {
        render::lines(&self.value, Some(&self.origins))
    }
}

/// Merges `sources` over `T::default()` and checks the result.
///
/// Text of the environment becomes a number or boolean where the setting is one; a value that starts with `[` or `{` is
/// read as TOML. Tables merge key by key, arrays are replaced whole.
///
/// # Errors
/// [`Error::Unreadable`] when the file cannot be read, otherwise [`Error::Invalid`] with all problems: syntax, unknown
/// keys, wrong types, failed checks, and secrets given where others can read them.
pub fn load<T>(sources: Sources<'_>) -> Result<Loaded<T>, Error>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let mut layer = Layer::default();
    if let Some(path) = sources.file {
        layer.absorb(file::read(path)?);
    }
    let (from_environment, mut problems) = Layer::from_environment(&sources.environment, sources.env_prefix);
    layer.absorb(from_environment);
    let (from_flags, unusable) = sources.flags.into_layer();
    layer.absorb(from_flags);
    problems.extend(unusable);

    let extracted = extract::extract::<T>(layer.values, &layer.origins);
    problems.extend(extracted.problems);
    if let Some(value) = &extracted.value {
        let found = value
            .validate()
            .into_iter()
            .chain(secret::misplaced(value, &layer.origins));
        let fresh: Vec<Problem> = found
            .filter(|problem| !extracted.unreliable.covers(&problem.key))
            .collect();
        problems.extend(fresh.into_iter().map(|problem| problem.located(&layer.origins)));
    }
    match extracted.value {
        Some(value) if problems.is_empty() => Ok(Loaded {
            value,
            origins: layer.origins,
        }),
        _ => Err(Error::Invalid(problems)),
    }
}
