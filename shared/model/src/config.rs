//! Typed access to a model directory's config.json, with errors that name file, field, value and cure.
//!
//! What every architecture shares is read here ([`ConfigFile::open`]); an architecture reads its own fields in its own file.

mod quantization;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use kr_contract::TokenId;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub(crate) use quantization::{Quantization, Scheme};

/// config.json, parsed and not yet understood.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the fields are in the file: empty, or the name of an object with a dot.
    place: &'static str,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Reads `dir`/config.json.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let bytes = read(&path)?;
        let fields = parse(&path, &bytes)?;
        let place = "";
        Ok(Self {
            path,
            bytes,
            place,
            fields,
        })
    }

    /// The object `{place}` of the file, `place` ending in a dot, as if it were the file.
    pub(crate) fn section(&self, place: &'static str) -> Result<Self> {
        let field = place.trim_end_matches('.');
        let fields = self.get(field).ok_or_else(|| self.required(field))?;
        let Some(fields) = fields.as_object().cloned() else {
            return Err(self.refuse(field, "it must be an object", "download the model again"));
        };
        Ok(Self {
            place,
            fields,
            ..self.clone()
        })
    }

    /// The file as it is on disk, for the digest.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same with `defaults`, an object, where the file is silent: what the architecture's class in transformers assumes. A null in
    /// the file stays one.
    pub(crate) fn or(&self, defaults: &Value) -> Self {
        let mut config = self.clone();
        for (field, value) in defaults.as_object().into_iter().flatten() {
            config.fields.entry(field).or_insert_with(|| value.clone());
        }
        config
    }

    /// The same with another value of `field`.
    pub(crate) fn with(&self, field: &str, value: Value) -> Self {
        let mut config = self.clone();
        config.fields.insert(field.to_owned(), value);
        config
    }

    /// The one entry of `architectures`.
    pub(crate) fn architecture(&self) -> Result<&str> {
        match self.get("architectures") {
            Some(Value::Array(names)) if names.len() == 1 => names[0].as_str(),
            _ => None,
        }
        .ok_or_else(|| {
            self.refuse(
                "architectures",
                "it must name exactly one architecture",
                "use a Hugging Face model directory",
            )
        })
    }

    /// The field's value, `None` where it is absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        let mut value = self.fields.get(field.split('.').next().unwrap_or(field))?;
        for part in field.split('.').skip(1) {
            value = value.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, field: &str, range: RangeInclusive<u32>) -> Result<u32> {
        let value = self.get(field).ok_or_else(|| self.required(field))?;
        value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let problem = format!("it must be a whole number from {} to {}", range.start(), range.end());
                self.refuse(field, &problem, "correct it, or download the model again")
            })
    }

    /// A whole number within `range`, `default` where it is absent.
    pub(crate) fn integer_or(&self, field: &str, range: RangeInclusive<u32>, default: u32) -> Result<u32> {
        if self.get(field).is_none() {
            return Ok(default);
        }
        self.integer(field, range)
    }

    /// A positive number, `default` where it is absent.
    pub(crate) fn positive_or(&self, field: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| self.refuse(field, "it must be a positive number", "correct it"))
    }

    /// A positive number.
    pub(crate) fn positive(&self, field: &str) -> Result<f64> {
        if self.get(field).is_none() {
            return Err(self.required(field));
        }
        self.positive_or(field, 1.0)
    }

    /// `count` positive numbers.
    pub(crate) fn positives(&self, field: &str, count: usize) -> Result<Vec<f64>> {
        let positive = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let numbers: Option<Vec<_>> = match self.get(field) {
            Some(Value::Array(values)) if values.len() == count => values.iter().map(positive).collect(),
            _ => None,
        };
        numbers.ok_or_else(|| {
            self.refuse(
                field,
                &format!("it must be a list of {count} positive numbers"),
                "correct it",
            )
        })
    }

    /// A truth value, `default` where it is absent.
    pub(crate) fn boolean_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.refuse(field, "it must be true or false", "correct it")),
        }
    }

    /// Refuses any value of `field` but absence, null and `allowed`.
    pub(crate) fn only(&self, field: &str, allowed: &Value, cure: &str) -> Result<()> {
        match self.get(field) {
            None => Ok(()),
            Some(value) if value == allowed || value.is_number() && value.as_f64() == allowed.as_f64() => Ok(()),
            Some(_) => Err(self.refuse(field, &format!("only {allowed} is supported"), cure)),
        }
    }

    /// The quantisation of the weights.
    pub(crate) fn quantization(&self) -> Result<Option<Quantization>> {
        quantization::read(self)
    }

    /// The tokens that end an answer: generation_config.json's, else config.json's.
    pub(crate) fn eos_token_ids(&self) -> Result<Vec<TokenId>> {
        let path = self.path.with_file_name("generation_config.json");
        if path.is_file() {
            let fields = parse(&path, &read(&path)?)?;
            let generation = Self {
                path,
                fields,
                ..self.clone()
            };
            if generation.get("eos_token_id").is_some() {
                return generation.ids("eos_token_id");
            }
        }
        match self.get("eos_token_id") {
            Some(_) => self.ids("eos_token_id"),
            None => Ok(Vec::new()),
        }
    }

    /// An error about `field` as it is in the file.
    pub(crate) fn refuse(&self, field: &str, problem: &str, cure: &str) -> Error {
        let value = self.get(field).map_or_else(|| "missing".to_owned(), Value::to_string);
        let field = format!("{}{field}", self.place);
        let (problem, cure) = (problem.to_owned(), cure.to_owned());
        Error::Config {
            path: self.path.clone(),
            field,
            value,
            problem,
            cure,
        }
    }

    fn required(&self, field: &str) -> Error {
        self.refuse(field, "it is required", "add it, or download the model again")
    }

    fn ids(&self, field: &str) -> Result<Vec<TokenId>> {
        let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
        let ids = match self.get(field) {
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
            None => None,
        };
        ids.ok_or_else(|| self.refuse(field, "it must be a token id or a list of them", "correct it"))
    }
}

/// Reads a whole small file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
