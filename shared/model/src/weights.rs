//! A model directory's tensors by name: mapped from safetensors and checked against what the architecture expects.

mod adopt;
mod file;
mod index;
mod raw;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use safetensors::Dtype as FileDtype;

use crate::digest;
use crate::error::{Error, Result};
use adopt::MappedTensor;
use file::WeightFile;

/// What happened to the bytes of the tensors that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes of weight files that arrays use in place.
    pub(crate) mapped_bytes: u64,
    /// Bytes that were copied: not aligned, converted, or for a backend with memory of its own.
    pub(crate) copied_bytes: u64,
}

impl std::ops::Add for Footprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            mapped_bytes: self.mapped_bytes + other.mapped_bytes,
            copied_bytes: self.copied_bytes + other.copied_bytes,
        }
    }
}

/// All tensors of a model directory.
#[derive(Debug)]
pub(crate) struct Weights {
    dir: PathBuf,
    files: Vec<WeightFile>,
    file_of: HashMap<String, usize>,
    /// Names of parts of stacked tensors: see [`Weights::unstack`].
    parts: HashMap<String, Part>,
    adopts: bool,
    footprint: Footprint,
    taken: HashSet<String>,
    adopted: Vec<Array>,
}

/// One of several tensors of one shape that a file holds as one.
#[derive(Debug)]
struct Part {
    stack: String,
    index: usize,
}

/// Handles to every adopted array. Must outlive all other arrays of the model: see [`MappedTensor::adopt`].
#[derive(Debug)]
pub(crate) struct AdoptedWeights {
    _handles: Vec<Array>,
}

impl Weights {
    /// Maps `dir`/model.safetensors or the shards that `dir`/model.safetensors.index.json lists. `adopts` says whether the backend
    /// can use mapped memory in place.
    pub(crate) fn open(dir: &Path, adopts: bool) -> Result<Self> {
        let mut files = Vec::new();
        let mut file_of = HashMap::new();
        for path in index::weight_files(dir)? {
            let file = WeightFile::open(&path)?;
            for name in file.names() {
                if file_of.contains_key(&name) {
                    return Err(tensor(
                        &path,
                        &name,
                        "is in another weight file too: remove one of them",
                    ));
                }
                file_of.insert(name, files.len());
            }
            files.push(file);
        }
        let (footprint, taken, adopted) = (Footprint::default(), HashSet::new(), Vec::new());
        let dir = dir.to_owned();
        Ok(Self {
            dir,
            files,
            file_of,
            parts: HashMap::new(),
            adopts,
            footprint,
            taken,
            adopted,
        })
    }

    /// Returns whether there is a tensor of that name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name) || self.parts.contains_key(name)
    }

    /// Where there is a tensor `stack` of `names.len()` tensors, gives each of them its name.
    pub(crate) fn unstack(&mut self, stack: &str, names: impl ExactSizeIterator<Item = String>) {
        let Some((info, _)) = self.file_of.get(stack).and_then(|file| self.files[*file].tensor(stack)) else {
            return;
        };
        if info.shape.first() == Some(&names.len()) {
            let part = |index| {
                let stack = stack.to_owned();
                Part { stack, index }
            };
            self.parts
                .extend(names.enumerate().map(|(index, name)| (name, part(index))));
        }
    }

    /// The name of a layer in its file: for a part of a stack that of the stack.
    pub(crate) fn stored_layer<'a>(&'a self, layer: &'a str) -> &'a str {
        let part = self.parts.get(&format!("{layer}.weight"));
        part.and_then(|part| part.stack.strip_suffix(".weight"))
            .unwrap_or(layer)
    }

    /// Returns the type of a floating-point tensor, `None` where there is none of that name or it is of another kind.
    pub(crate) fn float_dtype(&self, name: &str) -> Option<Dtype> {
        let stored = self.parts.get(name).map_or(name, |part| &part.stack);
        let (info, _) = self.files[*self.file_of.get(stored)?].tensor(stored)?;
        float(info.dtype)
    }

    /// Returns a floating-point tensor of exactly this shape, converted to `dtype` where the file holds another.
    pub(crate) fn dense(&mut self, name: &str, shape: &[u32], dtype: Dtype) -> Result<Array> {
        let array = self.float(name, shape)?;
        if array.dtype() == dtype {
            return Ok(array);
        }
        let converted = array.as_dtype(dtype)?;
        converted.eval()?;
        self.footprint.copied_bytes += converted.nbytes() as u64;
        Ok(converted)
    }

    /// Returns a floating-point tensor of exactly this shape in the file's own type.
    pub(crate) fn float(&mut self, name: &str, shape: &[u32]) -> Result<Array> {
        self.take(name, shape, float, "a floating-point type (F32, BF16, F16)")
    }

    /// Returns a tensor of packed integers of exactly this shape.
    pub(crate) fn packed(&mut self, name: &str, shape: &[u32]) -> Result<Array> {
        let packed = |dtype| (dtype == FileDtype::U32).then_some(Dtype::Uint32);
        self.take(name, shape, packed, "U32, the packed form of quantised weights")
    }

    /// Refuses `name` if it is there.
    pub(crate) fn refuse(&self, name: &str, problem: &str) -> Result<()> {
        match self.file_of.get(name) {
            None => Ok(()),
            Some(file) => Err(tensor(self.files[*file].path(), name, problem)),
        }
    }

    /// Names of tensors that nothing asked for, sorted.
    pub(crate) fn unused(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .file_of
            .keys()
            .filter(|name| !self.taken.contains(*name))
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names
    }

    /// What the weight files contribute to the model's digest.
    pub(crate) fn digest_parts(&self) -> Vec<digest::WeightFile<'_>> {
        self.files.iter().map(WeightFile::digest_part).collect()
    }

    /// Ends loading: what the arrays cost, and the handles that keep the adopted ones from being recycled.
    pub(crate) fn finish(self) -> (Footprint, AdoptedWeights) {
        let handles = AdoptedWeights { _handles: self.adopted };
        (self.footprint, handles)
    }

    fn take(
        &mut self,
        name: &str,
        shape: &[u32],
        accept: impl Fn(FileDtype) -> Option<Dtype>,
        expected: &str,
    ) -> Result<Array> {
        let (mapped, stored) = self.locate(name, shape, accept, expected)?;
        let adopts = self.adopts && mapped.is_adoptable();
        let array = if adopts { mapped.adopt()? } else { mapped.copy() };
        let bytes = array.nbytes() as u64;
        if adopts {
            self.footprint.mapped_bytes += bytes;
            self.adopted.push(array.clone());
        } else {
            self.footprint.copied_bytes += bytes;
        }
        self.taken.insert(stored);
        Ok(array)
    }

    /// Where a tensor lies, if it is as expected, and the name that its file has for it.
    fn locate(
        &self,
        name: &str,
        shape: &[u32],
        accept: impl Fn(FileDtype) -> Option<Dtype>,
        expected: &str,
    ) -> Result<(MappedTensor<'_>, String)> {
        let part = self.parts.get(name);
        let stored = part.map_or(name, |part| &part.stack).to_owned();
        let Some(file) = self.file_of.get(&stored).map(|index| &self.files[*index]) else {
            let problem = "is missing: config.json does not describe these weights, or the download is incomplete";
            return Err(tensor(&self.dir, name, problem));
        };
        let Some((info, mut offset)) = file.tensor(&stored) else {
            return Err(tensor(file.path(), name, "is missing"));
        };
        let mut found = &info.shape[..];
        if let (Some(part), [count, rest @ ..]) = (part, found) {
            offset += (info.data_offsets.1 - info.data_offsets.0) / count.max(&1) * part.index;
            found = rest;
        }
        let dtype = accept(info.dtype).ok_or_else(|| {
            let problem = format!("has type {:?}, expected is {expected}", info.dtype);
            tensor(file.path(), name, problem)
        })?;
        let dims: Option<Vec<i32>> = shape.iter().map(|length| i32::try_from(*length).ok()).collect();
        let same = shape.iter().map(|length| *length as usize).eq(found.iter().copied());
        let mapped = dims
            .filter(|_| same)
            .and_then(|dims| MappedTensor::new(file.map(), offset, dims, dtype))
            .ok_or_else(|| {
                let problem = format!("has shape {found:?}, config.json calls for {shape:?}");
                tensor(file.path(), name, problem)
            })?;
        Ok((mapped, stored))
    }
}

fn float(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::Float32),
        FileDtype::F16 => Some(Dtype::Float16),
        FileDtype::BF16 => Some(Dtype::Bfloat16),
        _ => None,
    }
}

fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests;
