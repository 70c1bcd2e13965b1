//! The TOML file, with the line of every setting.

use std::ops::Range;
use std::path::Path;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layer::{Layer, Origins};
use super::{Error, Origin, Problem};

/// Reads and parses the file at `path`.
pub(super) fn read(path: &Path) -> Result<Layer, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let source = Source { path, text: &text };
    let (document, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return Err(Error::Invalid(
            errors.iter().map(|error| source.syntax_problem(error)).collect(),
        ));
    }
    let mut origins = Origins::default();
    let values = source.table(document.get_ref(), "", &mut origins);
    Ok(Layer { values, origins })
}

/// Returns `text` as a TOML array or inline table if it is one.
pub(super) fn inline_value(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return None;
    }
    DeValue::parse(text).ok().map(|parsed| plain(parsed.get_ref()))
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or_default();
        Origin::File {
            path: self.path.to_owned(),
            line: 1 + before.matches('\n').count(),
        }
    }

    fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let message = format!("not TOML: {}", error.message());
        let origin = self.origin(&error.span().unwrap_or(0..0));
        Problem {
            origin,
            ..Problem::without_value("", message, "correct this line")
        }
    }

    fn table(&self, table: &DeTable<'_>, prefix: &str, origins: &mut Origins) -> Dict {
        let entries = table.iter().map(|(name, value)| {
            let key = join(prefix, name.get_ref());
            if !matches!(value.get_ref(), DeValue::Table(_)) {
                origins.insert(key.clone(), self.origin(&name.span()));
            }
            (name.get_ref().to_string(), self.value(value, &key, origins))
        });
        entries.collect()
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, key: &str, origins: &mut Origins) -> Value {
        match value.get_ref() {
            DeValue::Table(inner) => Value::from(self.table(inner, key, origins)),
            DeValue::Array(items) => {
                let items = items.iter().enumerate().map(|(index, item)| {
                    let key = join(key, &index.to_string());
                    origins.insert(key.clone(), self.origin(&item.span()));
                    self.value(item, &key, origins)
                });
                Value::from(items.collect::<Vec<Value>>())
            }
            scalar => plain(scalar),
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::from(number.to_string()), Value::from),
        },
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| Value::from(number.to_string()), Value::from),
        DeValue::Datetime(moment) => Value::from(moment.to_string()),
        DeValue::Array(items) => Value::from(items.iter().map(|item| plain(item.get_ref())).collect::<Vec<Value>>()),
        DeValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), plain(value.get_ref())));
            Value::from(entries.collect::<Dict>())
        }
    }
}
