//! Settings as TOML, one to a line.

use figment::value::{Dict, Empty, Num, Value};
use serde::Serialize;

use super::layer::Origins;

/// Returns the settings as TOML, one to a line, with its origin behind it if `origins` are given.
pub(super) fn lines<T: Serialize>(value: &T, origins: Option<&Origins>) -> String {
    let mut document = Document {
        text: String::new(),
        origins,
    };
    if let Ok(Value::Dict(_, table)) = Value::serialize(value) {
        document.table(&Place::default(), table);
    }
    document.text
}

/// Where a table is: as a TOML header names it, and with the indices of arrays in it.
#[derive(Default)]
struct Place {
    header: String,
    key: String,
}

/// TOML being written.
struct Document<'a> {
    text: String,
    origins: Option<&'a Origins>,
}

impl Document<'_> {
    /// Writes a table's settings, then its arrays of tables: what comes after a header belongs to it.
    fn table(&mut self, place: &Place, table: Dict) {
        let mut found = Vec::new();
        collect_table(String::new(), table, &mut found);
        let (arrays, settings): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, value)| is_table_array(value));
        for (key, value) in settings {
            let setting = match value {
                Value::Empty(..) => format!("# {key} is not set"),
                value => format!("{key} = {}", show(&value)),
            };
            self.text += &match self.origins {
                Some(origins) => format!("{setting}  # {}\n", origins.of(&join(&place.key, &key))),
                None => format!("{setting}\n"),
            };
        }
        for (key, array) in arrays {
            let Value::Array(_, items) = array else { continue };
            for (index, item) in items.into_iter().enumerate() {
                let Value::Dict(_, table) = item else { continue };
                let header = join(&place.header, &key);
                self.text += &format!("\n[[{header}]]\n");
                let key = join(&join(&place.key, &key), &index.to_string());
                self.table(&Place { header, key }, table);
            }
        }
    }
}

/// Returns the settings below `value` by dotted key. An array of scalars is one setting; elements of an array of tables
/// have their index in the key.
pub(super) fn leaves<T: Serialize>(value: &T) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    if let Ok(value) = Value::serialize(value) {
        collect(String::new(), value, &mut found);
    }
    found
}

fn collect(key: String, value: Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Dict(_, table) => {
            for (name, value) in table {
                collect(join(&key, &name), value, found);
            }
        }
        Value::Array(_, items) if holds_tables(&items) => {
            for (index, value) in items.into_iter().enumerate() {
                collect(join(&key, &index.to_string()), value, found);
            }
        }
        leaf => found.push((key, leaf)),
    }
}

/// The same for one table, arrays of tables left whole.
fn collect_table(key: String, table: Dict, found: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        match value {
            Value::Dict(_, table) => collect_table(join(&key, &name), table, found),
            value => found.push((join(&key, &name), value)),
        }
    }
}

fn is_table_array(value: &Value) -> bool {
    matches!(value, Value::Array(_, items) if holds_tables(items))
}

fn holds_tables(items: &[Value]) -> bool {
    items.iter().any(|item| matches!(item, Value::Dict(..)))
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() {
        name.to_owned()
    } else {
        format!("{key}.{name}")
    }
}

/// Returns `value` as TOML would have it; a table only as `{…}`.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(_, text) => quote(text),
        Value::Char(_, letter) => quote(&letter.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => show_number(*number),
        Value::Empty(_, Empty::None | Empty::Unit) => "nothing".to_owned(),
        Value::Dict(..) => "{…}".to_owned(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
    }
}

/// Returns `text` in quotes, as TOML writes it.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn show_number(number: Num) -> String {
    match (number.to_u128(), number.to_i128(), number.to_f64()) {
        (Some(whole), _, _) => whole.to_string(),
        (_, Some(whole), _) => whole.to_string(),
        (_, _, Some(real)) => format!("{real:?}"),
        _ => format!("{number:?}"),
    }
}
