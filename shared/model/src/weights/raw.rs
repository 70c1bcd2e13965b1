//! Tensors as bytes, for what is no array.

use std::ops::Range;

use mlx_rs::Dtype;
use safetensors::Dtype as FileDtype;

use super::file::WeightFile;
use super::{Weights, float};
use crate::error::Result;

/// Where a tensor's bytes lie.
struct Place<'a> {
    file: &'a WeightFile,
    dtype: FileDtype,
    shape: &'a [usize],
    range: Range<usize>,
}

impl Weights {
    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// Returns a tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.place(name)?.shape)
    }

    /// Returns a tensor's type and bytes.
    pub(crate) fn data(&self, name: &str) -> Option<(FileDtype, &[u8])> {
        let Place { file, dtype, range, .. } = self.place(name)?;
        Some((dtype, file.map().get(range)?))
    }

    /// Lets the system take back the memory of a tensor's bytes, of which no array was made.
    pub(crate) fn forget(&self, name: &str) {
        if let Some(place) = self.place(name).filter(|_| !self.taken.contains(name)) {
            place.file.forget(place.range);
        }
    }

    /// Accepts a tensor of packed integers of exactly this shape, without making an array of it.
    pub(crate) fn accept_packed(&mut self, name: &str, shape: &[u32]) -> Result<()> {
        let packed = |dtype| (dtype == FileDtype::U32).then_some(Dtype::Uint32);
        let (_, stored) = self.locate(name, shape, packed, "U32, the packed form of quantised weights")?;
        self.taken.insert(stored);
        Ok(())
    }

    /// Accepts a floating-point tensor of exactly this shape, without making an array of it.
    pub(crate) fn accept_float(&mut self, name: &str, shape: &[u32]) -> Result<()> {
        let (_, stored) = self.locate(name, shape, float, "a floating-point type (F32, BF16, F16)")?;
        self.taken.insert(stored);
        Ok(())
    }

    fn place(&self, name: &str) -> Option<Place<'_>> {
        let part = self.parts.get(name);
        let stored = part.map_or(name, |part| &part.stack);
        let file = &self.files[*self.file_of.get(stored)?];
        let (info, start) = file.tensor(stored)?;
        let whole = info.data_offsets.1 - info.data_offsets.0;
        let (shape, range) = match (part, &info.shape[..]) {
            (None, shape) => (shape, start..start + whole),
            (Some(part), [count, shape @ ..]) => {
                let bytes = whole / count.max(&1);
                let start = start + bytes * part.index;
                (shape, start..start + bytes)
            }
            (Some(_), []) => return None,
        };
        Some(Place {
            file,
            dtype: info.dtype,
            shape,
            range,
        })
    }
}
