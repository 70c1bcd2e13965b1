//! Settings of one or more sources before they become a struct: nested values, and the origin of each.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Environment, Origin, Problem, file};

/// Origins by dotted key. Tables have none of their own; arrays and their elements have.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    pub(super) fn insert(&mut self, key: String, origin: Origin) {
        self.0.insert(key, origin);
    }

    /// Returns the origin of `key`: its own, else that of the array or inline table around it, else (for a table) that of
    /// the first setting within.
    pub(super) fn of(&self, key: &str) -> Origin {
        let around = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(parent, _)| parent));
        let within = || {
            let prefix = format!("{key}.");
            self.0
                .range(prefix.clone()..)
                .next()
                .filter(|(inner, _)| inner.starts_with(&prefix))
        };
        around
            .filter_map(|key| self.0.get(key))
            .next()
            .or_else(|| within().map(|(_, origin)| origin))
            .cloned()
            .unwrap_or(Origin::Default)
    }

    fn record(&mut self, key: &str, value: &Value, origin: &Origin) {
        match value {
            Value::Dict(_, table) => {
                for (name, value) in table {
                    self.record(&format!("{key}.{name}"), value, origin);
                }
            }
            _ => self.insert(key.to_owned(), origin.clone()),
        }
    }

    fn absorb(&mut self, stronger: Self) {
        for key in stronger.0.keys() {
            let inner = format!("{key}.");
            self.0.retain(|held, _| !held.starts_with(&inner));
        }
        self.0.extend(stronger.0);
    }
}

/// Settings and their origins.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) values: Dict,
    pub(super) origins: Origins,
}

impl Layer {
    /// Puts `stronger` over this layer.
    pub(super) fn absorb(&mut self, stronger: Self) {
        let merged = Figment::from(Settings(&self.values)).merge(Settings(&stronger.values));
        if let Ok(mut profiles) = merged.data() {
            self.values = profiles.remove(&Profile::Default).unwrap_or_default();
        }
        self.origins.absorb(stronger.origins);
    }

    /// Sets one dotted key; a plain value in its way becomes a table.
    pub(super) fn insert(&mut self, key: &str, value: Value, origin: Origin) {
        self.origins.record(key, &value, &origin);
        insert(&mut self.values, key, value);
    }

    pub(super) fn from_environment(environment: &Environment, prefix: &str) -> (Self, Vec<Problem>) {
        let (mut layer, mut problems) = (Self::default(), Vec::new());
        if prefix.is_empty() {
            return (layer, problems);
        }
        for (name, text) in environment.iter() {
            let Some(rest) = name.strip_prefix(prefix) else {
                continue;
            };
            let key = rest.replace("__", ".").to_lowercase();
            let origin = Origin::Environment(name.to_owned());
            if key.split('.').any(str::is_empty) {
                let cure = format!("write {prefix}SECTION__KEY, with two underscores between levels");
                problems.push(Problem {
                    origin,
                    ..Problem::without_value(key, "malformed variable name", cure)
                });
                continue;
            }
            layer.insert(
                &key,
                file::inline_value(text).unwrap_or_else(|| Value::from(text)),
                origin,
            );
        }
        (layer, problems)
    }
}

fn insert(table: &mut Dict, key: &str, value: Value) {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table
        .entry(first.to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if !matches!(inner, Value::Dict(..)) {
        *inner = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

/// A table of settings as a figment provider.
#[derive(Debug)]
pub(super) struct Settings<'a>(pub(super) &'a Dict);

impl Provider for Settings<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("settings")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}
