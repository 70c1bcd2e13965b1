//! One thing wrong with a configuration, told so that the reader can repair it.

use std::fmt;
use std::path::PathBuf;

use super::layer::Origins;

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in value holds.
    Default,
    /// A configuration file.
    File {
        /// The file as the user named it.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable, by its full name.
    Environment(String),
    /// A command-line flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing wrong: which setting, what it was, why that is not possible, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting's dotted key, `queue.capacity`; empty for the file as a whole.
    pub key: String,
    /// The value as given, already quoted; `None` where there is none or it must not be shown.
    pub value: Option<String>,
    /// What is wrong, lowercase, for example `expected a whole number`.
    pub message: String,
    /// What to do about it, as an imperative: `set it to 1 or more`.
    pub cure: String,
    /// Where the value was given; filled in by [`super::load`].
    pub origin: Origin,
}

impl Problem {
    /// Returns a problem with a setting that has a value.
    pub fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            value: Some(value.to_string()),
            ..Self::without_value(key, message, cure)
        }
    }

    /// Returns a problem with a setting that is missing or whose value must not be shown.
    pub fn without_value(key: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
            message: message.into(),
            cure: cure.into(),
            origin: Origin::Default,
        }
    }

    /// Returns this problem seen from one level up: `capacity` under `queue` is `queue.capacity`.
    #[must_use]
    pub fn under(mut self, parent: &str) -> Self {
        self.key = format!("{parent}.{}", self.key);
        self
    }

    pub(super) fn located(mut self, origins: &Origins) -> Self {
        self.origin = origins.of(&self.key);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = !self.key.is_empty();
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        match (&self.origin, named) {
            (Origin::Default, false) => {}
            (Origin::Default, true) => f.write_str(": ")?,
            (origin, false) => write!(f, "{origin}: ")?,
            (origin, true) => write!(f, " (from {origin}): ")?,
        }
        write!(f, "{}; {}", self.message, self.cure)
    }
}
