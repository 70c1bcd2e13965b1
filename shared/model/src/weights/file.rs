//! One safetensors file: mapped, its header checked before anything of it is believed.
#![expect(unsafe_code, reason = "maps a file that another process could change")]

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::digest;
use crate::error::{Error, Result};

const LENGTH_BYTES: usize = 8;

/// A multiple of the system's pages.
const PAGE: usize = 1 << 16;

/// A mapped safetensors file with a header that fits it.
#[derive(Debug)]
pub(crate) struct WeightFile {
    path: PathBuf,
    map: Arc<MmapMut>,
    metadata: Metadata,
    data_start: usize,
}

impl WeightFile {
    /// Maps `path` copy-on-write (MLX may write into memory it is allowed to reuse; untouched pages stay shared between
    /// processes) and checks its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.len() == 0 {
            return Err(broken(path, "the file is empty"));
        }
        // SAFETY: the mapping is private, so nothing we or MLX write reaches the file. That nobody changes or truncates the file
        // under us is a requirement on whoever keeps the model directory, and documented there.
        let map = unsafe { MmapOptions::new().map_copy(&file) }.map_err(read)?;
        let header_bytes = checked_header_length(path, &map)?;
        let data_start = LENGTH_BYTES + header_bytes;
        refuse_duplicates(path, &map[LENGTH_BYTES..data_start])?;
        let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|source| Error::Header {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            map: Arc::new(map),
            metadata,
            data_start,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole mapping.
    pub(crate) fn map(&self) -> &Arc<MmapMut> {
        &self.map
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The header's entry and where the data starts in the mapping.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&TensorInfo, usize)> {
        let info = self.metadata.info(name)?;
        Some((info, self.data_start + info.data_offsets.0))
    }

    /// Lets the system take back the memory of these bytes, which are read from the file again if anybody asks for them.
    pub(crate) fn forget(&self, range: Range<usize>) {
        // Whole pages inside the range: what lies beside them may have been written to.
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end / PAGE * PAGE;
        if cfg!(target_os = "linux") && start < end {
            // SAFETY: nothing holds a reference into these bytes while weights are loaded, and nobody has written to them: reading
            // them again gives what the file has. A refusal changes nothing.
            drop(unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            });
        }
    }

    /// What this file contributes to the model's digest.
    pub(crate) fn digest_part(&self) -> digest::WeightFile<'_> {
        digest::WeightFile {
            name: self.path.file_name().and_then(|name| name.to_str()).unwrap_or(""),
            bytes: self.map.len() as u64,
            header: &self.map[..self.data_start],
            probes: self
                .names()
                .iter()
                .flat_map(|name| digest::probes(self.data(name)))
                .collect(),
        }
    }

    /// A tensor's bytes; none where there is no such tensor.
    fn data(&self, name: &str) -> &[u8] {
        let range = self
            .tensor(name)
            .map(|(info, start)| start..start + (info.data_offsets.1 - info.data_offsets.0));
        range.and_then(|range| self.map.get(range)).unwrap_or_default()
    }
}

fn broken(path: &Path, problem: impl Into<String>) -> Error {
    Error::WeightFile {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// The header's length, which lies within the file. Says what a truncated download looks like before the parser stumbles over it.
fn checked_header_length(path: &Path, map: &[u8]) -> Result<usize> {
    let Some(length) = map.first_chunk::<LENGTH_BYTES>() else {
        return Err(broken(
            path,
            format!("the file has {} bytes, too few for a header", map.len()),
        ));
    };
    let claimed = u64::from_le_bytes(*length);
    usize::try_from(claimed)
        .ok()
        .filter(|length| *length <= map.len() - LENGTH_BYTES)
        .ok_or_else(|| {
            let problem = format!(
                "the header claims {claimed} bytes, the file has {}: truncated or no safetensors file",
                map.len()
            );
            broken(path, problem)
        })
}

/// The parser keeps the last of two equal names; here they are an error, and so is data that ends before or after the file does.
fn refuse_duplicates(path: &Path, header: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object with one entry for each tensor")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut duplicate = None;
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if let Some(name) = seen.replace(name) {
                    duplicate.get_or_insert(name);
                }
            }
            Ok(duplicate)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    let duplicate = json.deserialize_map(Names).map_err(|source| Error::Header {
        path: path.to_owned(),
        source: safetensors::SafeTensorError::InvalidHeaderDeserialization(source),
    })?;
    match duplicate {
        None => Ok(()),
        Some(tensor) => Err(Error::Tensor {
            path: path.to_owned(),
            tensor,
            problem: "is listed twice in the header: download or import the model again".to_owned(),
        }),
    }
}
