//! A mapped GGUF file, or the mapped parts of one, with checked headers and typed access to the metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Place};
use crate::header::{Header, Tensor};
use crate::map::MappedFile;
use crate::split;
use crate::value::{Array, Value};

/// A GGUF file whose header has been checked completely; of a model split into several files, all of them.
#[derive(Debug)]
pub struct Gguf {
    /// The first one has the metadata.
    parts: Vec<Part>,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: MappedFile,
}

impl Gguf {
    /// Maps the file and checks its header; no weight is read. Given the first part of a split model, finds the others
    /// beside it.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be opened or mapped, [`Error::Malformed`] when its bytes are not GGUF,
    /// [`Error::Part`] when parts are missing or belong to something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        split::join(Self::open_one(path)?)
    }

    /// Maps one file, whatever it is a part of.
    pub(crate) fn open_one(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(&file).map_err(|fault| Error::Malformed {
            path: path.to_owned(),
            fault,
        })?;
        let path = path.to_owned();
        Ok(Self {
            parts: vec![Part { path, file }],
            metadata: header.metadata,
            tensors: header.tensors,
        })
    }

    /// Adds the tensors of the next part; its metadata is dropped.
    pub(crate) fn append(&mut self, next: Self) {
        let part = self.parts.len();
        self.parts.extend(next.parts);
        self.tensors
            .extend(next.tensors.into_iter().map(|tensor| tensor.in_part(part)));
    }

    /// All metadata by key.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub(crate) fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// The file that holds a tensor.
    pub(crate) fn path_of(&self, tensor: &Tensor) -> &Path {
        &self.parts[tensor.part()].path
    }

    /// All files with their bytes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.parts.iter().map(|part| (part.path.as_path(), &*part.file))
    }

    pub(crate) fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.parts[tensor.part()].file[tensor.range()]
    }

    fn path_to(&self, subject: &Place) -> PathBuf {
        let holds = |tensor: &&Tensor| matches!(subject, Place::Tensor(name) if name == tensor.name());
        let tensor = self.tensors.iter().find(holds);
        tensor
            .map_or_else(|| self.path(), |tensor| self.path_of(tensor))
            .to_owned()
    }

    pub(crate) fn missing(&self, subject: Place) -> Error {
        Error::Missing {
            path: self.path_to(&subject),
            subject,
        }
    }

    pub(crate) fn unsupported(&self, subject: Place, found: impl Into<String>, supported: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path_to(&subject),
            subject,
            found: found.into(),
            supported: supported.into(),
        }
    }

    pub(crate) fn inconsistent(&self, subject: Place, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Inconsistent {
            path: self.path_to(&subject),
            subject,
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// `None` when the key is absent, an error when it has another type.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| self.inconsistent(Place::Key(key.into()), value.type_name(), expected))
    }

    /// A whole number from 0 to 2^32 - 1: every size and id that a model may have.
    pub(crate) fn size(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "a whole number from 0 to 4294967295", |value| match value {
            Value::Unsigned(value) => u32::try_from(*value).ok(),
            Value::Signed(value) => u32::try_from(*value).ok(),
            _ => None,
        })
    }

    pub(crate) fn required_size(&self, key: &str) -> Result<u32, Error> {
        self.size(key)?.ok_or_else(|| self.missing(Place::Key(key.into())))
    }

    /// A finite float. A 32-bit one becomes the shortest decimal that means it: 1e-5, not 9.99999974e-6.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite number", |value| match value {
            Value::Float32(value) => value.to_string().parse().ok().filter(|value: &f64| value.is_finite()),
            Value::Float64(value) => Some(*value).filter(|value| value.is_finite()),
            _ => None,
        })
    }

    pub(crate) fn required_float(&self, key: &str) -> Result<f64, Error> {
        self.float(key)?.ok_or_else(|| self.missing(Place::Key(key.into())))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a truth value", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    pub(crate) fn required_text(&self, key: &str) -> Result<&str, Error> {
        self.text(key)?.ok_or_else(|| self.missing(Place::Key(key.into())))
    }

    pub(crate) fn required_texts(&self, key: &str) -> Result<&[String], Error> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(values)) => Some(values.as_slice()),
            _ => None,
        })?
        .ok_or_else(|| self.missing(Place::Key(key.into())))
    }

    pub(crate) fn required_floats(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.typed(key, "an array of 32-bit floats", |value| match value {
            Value::Array(Array::Scalars(values)) => values.floats(),
            _ => None,
        })?
        .ok_or_else(|| self.missing(Place::Key(key.into())))
    }

    pub(crate) fn required_integers(&self, key: &str) -> Result<Vec<i64>, Error> {
        self.typed(key, "an array of whole numbers", |value| match value {
            Value::Array(Array::Scalars(values)) => values.integers(),
            _ => None,
        })?
        .ok_or_else(|| self.missing(Place::Key(key.into())))
    }
}
