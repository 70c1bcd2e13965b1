//! What a person writes to name a model of the hub.

use std::fmt;
use std::str::FromStr;

/// `ORG/NAME` or `ORG/NAME@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model::pull) struct Repository {
    organisation: String,
    name: String,
    revision: Option<String>,
}

impl Repository {
    /// Returns `ORG/NAME`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }

    pub(in crate::model::pull) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the branch, tag or commit.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let parsed = id.split_once('/').and_then(|(organisation, name)| {
            let revision = match revision {
                None => None,
                Some(revision) if revision.split('/').all(is_name) => Some(revision.to_owned()),
                Some(_) => return None,
            };
            (is_name(organisation) && is_name(name)).then(|| Self {
                organisation: organisation.to_owned(),
                name: name.to_owned(),
                revision,
            })
        });
        parsed.ok_or_else(|| "write `demo`, ORG/NAME or ORG/NAME@REVISION".into())
    }
}

/// Accepts what may be a folder's name in the cache.
///
/// # Errors
/// The text has other characters than letters, digits, `-`, `_` and `.`.
pub(in crate::model::pull) fn model_name(text: &str) -> Result<String, String> {
    let name = is_name(text).then(|| text.to_owned());
    name.ok_or_else(|| "a name has letters, digits, `-`, `_` and `.`, and does not begin with a `.`".into())
}

/// Whether `text` can stand in an address and name a file wherever it is put.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_revision_are_read() {
        let plain: Repository = "org/Some-Model_1.5".parse().unwrap();
        assert_eq!((plain.id().as_str(), plain.revision()), ("org/Some-Model_1.5", "main"));
        let pinned: Repository = "org/model@refs/pr/1".parse().unwrap();
        assert_eq!((pinned.name(), pinned.revision()), ("model", "refs/pr/1"));
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        let texts = [
            "model",
            "a/b/c",
            "../b",
            "a/..",
            "a/",
            "/b",
            "a/b@",
            "a/b@../x",
            "a/b?x",
            "a/b@x y",
            "a/b@x%2Fy",
        ];
        for text in texts {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }
}
