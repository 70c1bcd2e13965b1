//! From merged settings to a struct, finding all problems instead of the first: a setting that does not fit is noted, taken
//! out, and the rest is tried again.

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layer::{Origins, Settings};
use super::{Problem, render, secret};

pub(super) struct Extracted<T> {
    /// The struct, with defaults in place of every setting that did not fit; `None` if not even that was possible.
    pub(super) value: Option<T>,
    pub(super) problems: Vec<Problem>,
    pub(super) unreliable: Unreliable,
}

/// Keys whose value in the extracted struct is not what the user wrote, so that a check on it would only confuse.
#[derive(Debug, Default)]
pub(super) struct Unreliable(Vec<String>);

impl Unreliable {
    pub(super) fn covers(&self, key: &str) -> bool {
        let within = |outer: &str, inner: &str| inner == outer || inner.starts_with(&format!("{outer}."));
        self.0
            .iter()
            .any(|reported| within(reported, key) || within(key, reported))
    }
}

pub(super) fn extract<T>(mut settings: Dict, origins: &Origins) -> Extracted<T>
where
    T: DeserializeOwned + Serialize + Default,
{
    let defaults = Figment::from(Serialized::defaults(T::default()));
    let (mut problems, mut removed) = (Vec::<Problem>::new(), Removed::default());
    loop {
        let error = match defaults.clone().merge(Settings(&settings)).extract_lossy::<T>() {
            Ok(value) => {
                let unreliable = problems
                    .iter()
                    .map(|problem| problem.key.clone())
                    .chain(removed.arrays());
                return Extracted {
                    value: Some(value),
                    unreliable: Unreliable(unreliable.collect()),
                    problems,
                };
            }
            Err(error) => error,
        };
        let mut path = error.path;
        let mut key = removed.original(&path);
        if let Kind::MissingField(field) = &error.kind {
            key.push(field.to_string());
        }
        let key = key.join(".");
        if !problems.iter().any(|known| known.key == key) {
            let default = defaults.find_value(&key).ok();
            let origin = origins.of(&key);
            problems.push(Problem {
                origin,
                ..describe(&key, error.kind, default.as_ref())
            });
        }
        while !path.is_empty() && !removed.take(&mut settings, &path) {
            path.pop();
        }
        if path.is_empty() {
            return Extracted {
                value: None,
                problems,
                unreliable: Unreliable::default(),
            };
        }
    }
}

/// Array elements taken out so far, by the array's original path, with original indices in order.
#[derive(Debug, Default)]
struct Removed(Vec<(Vec<String>, usize)>);

impl Removed {
    /// Returns `path` as the user wrote it, before elements were taken out.
    fn original(&self, path: &[String]) -> Vec<String> {
        let mut original: Vec<String> = Vec::with_capacity(path.len() + 1);
        for segment in path {
            let shifted = segment.parse::<usize>().ok().map(|index| {
                let gone = self
                    .0
                    .iter()
                    .filter(|(array, _)| *array == original)
                    .map(|(_, index)| *index);
                gone.fold(index, |index, gone| if gone <= index { index + 1 } else { index })
            });
            original.push(shifted.map_or_else(|| segment.clone(), |index| index.to_string()));
        }
        original
    }

    fn arrays(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(array, _)| array.join("."))
    }

    /// Takes the setting at `path` out of `settings`; false if there is none.
    fn take(&mut self, settings: &mut Dict, path: &[String]) -> bool {
        let Some((last, parents)) = path.split_last() else {
            return false;
        };
        let Some((first, parents)) = parents.split_first() else {
            return settings.remove(last).is_some();
        };
        let container = parents
            .iter()
            .try_fold(settings.get_mut(first), |value, name| match value? {
                Value::Dict(_, table) => Some(table.get_mut(name)),
                Value::Array(_, items) => Some(items.get_mut(name.parse::<usize>().ok()?)),
                _ => None,
            });
        match (container.flatten(), last.parse::<usize>()) {
            (Some(Value::Dict(_, table)), _) => table.remove(last).is_some(),
            (Some(Value::Array(_, items)), Ok(index)) if index < items.len() => {
                let original = self.original(path);
                items.remove(index);
                if let Some((index, array)) = original.split_last() {
                    self.0.push((array.to_vec(), index.parse().unwrap_or_default()));
                    self.0.sort();
                }
                true
            }
            _ => false,
        }
    }
}

fn describe(key: &str, kind: Kind, default: Option<&Value>) -> Problem {
    let cure = || match default {
        Some(value) if !matches!(value, Value::Empty(..) | Value::Dict(..) | Value::Array(..)) => {
            format!("set it to something like {} (the default)", render::show(value))
        }
        _ => "correct it or leave it out".to_owned(),
    };
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let message = format!("expected {}", in_words(&expected));
            match shown(&actual) {
                Some(value) if expected != secret::EXPECTED => Problem::new(key, value, message, cure()),
                _ => Problem::without_value(key, message, cure()),
            }
        }
        Kind::UnknownVariant(found, known) => {
            let message = format!("expected one of {}", known.join(", "));
            let cure =
                closest(&found, known).map_or_else(cure, |name| format!("did you mean {}?", render::quote(name)));
            Problem::new(key, render::quote(&found), message, cure)
        }
        Kind::UnknownField(found, known) => Problem::without_value(key, "unknown key", unknown_key_cure(&found, known)),
        Kind::MissingField(_) => Problem::without_value(key, "missing", "add it"),
        other => Problem::without_value(key, other.to_string(), cure()),
    }
}

fn unknown_key_cure(found: &str, known: &[&str]) -> String {
    match closest(found, known) {
        Some(name) => format!("did you mean {name}?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("remove it; known here: {}", known.join(", ")),
    }
}

fn closest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|name| (strsim::jaro_winkler(found, name), *name));
    scored
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn shown(actual: &Actual) -> Option<String> {
    Some(match actual {
        Actual::Bool(flag) => flag.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => format!("{number:?}"),
        Actual::Char(letter) => render::quote(&letter.to_string()),
        Actual::Str(text) => render::quote(text),
        Actual::Seq => "[…]".to_owned(),
        Actual::Map => "{…}".to_owned(),
        _ => return None,
    })
}

/// Returns what serde calls a type in words that a user knows.
fn in_words(expected: &str) -> String {
    match expected {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" | "u128" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        _ => match expected.strip_prefix("struct ") {
            Some(_) => "a table".to_owned(),
            None => expected
                .strip_prefix("a nonzero ")
                .map_or_else(|| expected.to_owned(), |_| "a whole number, 1 or more".to_owned()),
        },
    }
}
