//! The `tojson` filter as chat templates know it: Python's spacing, no escaping of HTML or of letters beyond ASCII.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value as Json};

const MAX_INDENT: usize = 16;

/// `value | tojson(indent=…, sort_keys=…)`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    // Never escaping is what both of these ask for.
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson with ensure_ascii=True is not supported",
        ));
    }
    options.assert_all_used()?;
    let fault = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "the value cannot be written as JSON").with_source(error)
    };
    let mut json = serde_json::to_value(value).map_err(fault)?;
    if sort_keys {
        sort(&mut json);
    }
    let text = match indent {
        None => write(&json, Spaced),
        Some(indent) => write(
            &json,
            PrettyFormatter::with_indent(&b" ".repeat(indent.min(MAX_INDENT))),
        ),
    };
    text.map(Value::from).map_err(fault)
}

fn write(json: &Json, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    String::from_utf8(bytes).map_err(|error| serde_json::Error::io(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn sort(json: &mut Json) {
    match json {
        Json::Array(values) => values.iter_mut().for_each(sort),
        Json::Object(fields) => {
            let mut sorted: Vec<_> = std::mem::take(fields).into_iter().collect();
            sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
            sorted.iter_mut().for_each(|(_, value)| sort(value));
            *fields = sorted.into_iter().collect::<Map<_, _>>();
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

/// `{"a": 1, "b": [2, 3]}`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
