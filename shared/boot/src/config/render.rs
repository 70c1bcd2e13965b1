//! Settings as text: one `key = value` line each.

use figment::value::{Empty, Num, Value};
use serde::Serialize;

use super::layer::Origins;

/// Returns one line per setting, with its origin behind it if `origins` are given.
pub(super) fn lines<T: Serialize>(value: &T, origins: Option<&Origins>) -> String {
    let mut text = String::new();
    for (key, leaf) in leaves(value) {
        let setting = match leaf {
            Value::Empty(..) => format!("# {key} is not set"),
            leaf => format!("{key} = {}", show(&leaf)),
        };
        text += &match origins {
            Some(origins) => format!("{setting}  # {}\n", origins.of(&key)),
            None => format!("{setting}\n"),
        };
    }
    text
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
    let join = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    match value {
        Value::Dict(_, table) => {
            for (name, value) in table {
                collect(join(&name), value, found);
            }
        }
        Value::Array(_, items) if items.iter().any(|item| matches!(item, Value::Dict(..))) => {
            for (index, value) in items.into_iter().enumerate() {
                collect(join(&index.to_string()), value, found);
            }
        }
        leaf => found.push((key, leaf)),
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
