//! Reads the header of a safetensors file, as untrusted as any other.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::PADDING;
use crate::error::{Error, Malformed, Place};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor as the header describes it.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
}

/// The file's size and its tensors in the order of their data, without padding.
///
/// # Errors
/// [`Error::Io`] and [`Error::Malformed`], naming the tensor.
pub(crate) fn read_header(path: &Path) -> Result<(u64, Vec<StoredTensor>), Error> {
    let io = |action| {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let malformed = |fault| Error::Malformed {
        path: path.to_owned(),
        fault,
    };
    let file = File::open(path).map_err(io("open"))?;
    let file_bytes = file.metadata().map_err(io("read"))?.len();
    let header = header(&file, file_bytes).map_err(io("read"))?.map_err(malformed)?;
    let data_bytes = file_bytes - 8 - header.len() as u64;
    let tensors = tensors(&header, data_bytes).map_err(malformed)?;
    Ok((file_bytes, tensors))
}

fn fault(place: Place, offset: u64, found: impl Into<String>, expected: impl Into<String>) -> Malformed {
    Malformed {
        place,
        offset,
        found: found.into(),
        expected: expected.into(),
    }
}

fn header(mut file: &File, file_bytes: u64) -> io::Result<Result<Vec<u8>, Malformed>> {
    if file_bytes < 8 {
        let found = format!("a file of {file_bytes} bytes");
        return Ok(Err(fault(
            Place::Header,
            0,
            found,
            "the length of the header in 8 bytes",
        )));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let most = MAX_HEADER_BYTES.min(file_bytes - 8);
    if length > most {
        let found = format!("a header of {length} bytes");
        return Ok(Err(fault(Place::Header, 0, found, format!("at most {most}"))));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    Ok(Ok(header))
}

fn tensors(header: &[u8], data_bytes: u64) -> Result<Vec<StoredTensor>, Malformed> {
    let entries: Map<String, Json> = serde_json::from_slice(header)
        .map_err(|error| fault(Place::Header, 8, error.to_string(), "a JSON object of tensors"))?;
    let mut tensors = Vec::new();
    for (name, entry) in entries {
        if name == "__metadata__" || name.starts_with(PADDING) {
            continue;
        }
        let [start, end] = offsets(&entry)
            .filter(|[start, end]| start <= end && *end <= data_bytes)
            .ok_or_else(|| {
                let found = format!("data_offsets {}", entry["data_offsets"]);
                let expected = format!("a range within the {data_bytes} bytes of data");
                fault(Place::Tensor(name.clone()), 8, found, expected)
            })?;
        let tensor = StoredTensor {
            dtype: entry["dtype"].as_str().unwrap_or("of an unknown type").to_owned(),
            shape: entry["shape"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Json::as_u64)
                .collect(),
            bytes: end - start,
            name,
        };
        tensors.push((start, tensor));
    }
    tensors.sort_by_key(|(start, _)| *start);
    Ok(tensors.into_iter().map(|(_, tensor)| tensor).collect())
}

fn offsets(entry: &Json) -> Option<[u64; 2]> {
    let offsets = entry["data_offsets"].as_array()?;
    let offsets: Vec<_> = offsets.iter().map(Json::as_u64).collect::<Option<_>>()?;
    offsets.try_into().ok()
}
