//! The header of a GGUF file: checked completely before anything of it is used.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use crate::cursor::{Cursor, Fault};
use crate::error::{Malformed, Place};
use crate::tensor_type::TensorType;
use crate::value::{Value, read_value};

const MAX_KEY_BYTES: u64 = 65_535;
const MAX_NAME_BYTES: u64 = 64;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 65_536;
/// The fewest bytes of a metadata entry: key length, type, one byte.
const MIN_ENTRY_BYTES: u64 = 13;
/// The fewest bytes of a tensor description: name length, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 32;

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    /// Columns first, as the file has them.
    dimensions: Vec<usize>,
    tensor_type: &'static TensorType,
    range: Range<usize>,
    described_at: u64,
    part: usize,
}

impl Tensor {
    /// Name in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the type, such as `Q4_1`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.tensor_type.name
    }

    /// Shape with the rows first, the way arrays are written elsewhere.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        self.dimensions.iter().rev().copied().collect()
    }

    /// Bytes in the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.len() as u64
    }

    /// Where the file describes it, in bytes from the start.
    pub(crate) fn described_at(&self) -> u64 {
        self.described_at
    }

    /// Index of the file that holds it, of a model that is split into several.
    pub(crate) fn part(&self) -> usize {
        self.part
    }

    pub(crate) fn in_part(self, part: usize) -> Self {
        Self { part, ..self }
    }

    pub(crate) fn tensor_type(&self) -> &'static TensorType {
        self.tensor_type
    }

    /// Where the data lies, inside the file for certain.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Values of a row.
    pub(crate) fn columns(&self) -> usize {
        self.dimensions[0]
    }

    pub(crate) fn rows(&self) -> usize {
        self.dimensions[1..].iter().product()
    }
}

/// Checks the header of a file that is in memory, without keeping it. For fuzzing.
///
/// # Errors
/// The first violation of the format.
pub fn check_header(bytes: &[u8]) -> Result<(), Malformed> {
    Header::parse(bytes).map(drop)
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let counts = read_counts(&mut cursor).map_err(|fault| fault.at(Place::Header))?;
        let metadata = read_metadata(&mut cursor, counts.entries)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = read_tensors(&mut cursor, counts.tensors)?;
        let data_start = cursor.offset().next_multiple_of(alignment);
        for tensor in &mut tensors {
            place(tensor, data_start, alignment, bytes.len() as u64)?;
        }
        refuse_overlaps(&tensors)?;
        Ok(Self { metadata, tensors })
    }
}

struct Counts {
    tensors: u64,
    entries: u64,
}

fn read_counts(cursor: &mut Cursor<'_>) -> Result<Counts, Fault> {
    let magic: [u8; 4] = cursor.array()?;
    if &magic != b"GGUF" {
        return Err(Fault {
            offset: 0,
            found: format!("{:?}", magic.escape_ascii().to_string()),
            expected: "the letters GGUF".into(),
        });
    }
    let version = cursor.u32()?;
    if !matches!(version, 2 | 3) {
        let found = match version.swap_bytes() {
            1..=9 => "a big-endian file".into(),
            _ => format!("version {version}"),
        };
        return Err(Fault {
            offset: 4,
            found,
            expected: "version 2 or 3, little-endian".into(),
        });
    }
    let tensors = cursor.count(MIN_TENSOR_BYTES)?;
    let entries = cursor.count(MIN_ENTRY_BYTES)?;
    Ok(Counts { tensors, entries })
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, Malformed> {
    let mut metadata = BTreeMap::new();
    for number in 0..count {
        let start = cursor.offset();
        let key = cursor
            .string(MAX_KEY_BYTES)
            .map_err(|fault| fault.at(Place::KeyNumber(number)))?;
        let value = read_value(cursor).map_err(|fault| fault.at(Place::Key(key.to_owned())))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(Malformed {
                place: Place::Key(key.to_owned()),
                offset: start,
                found: "the key a second time".into(),
                expected: "each key once".into(),
            });
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Malformed> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(alignment) => {
            Ok(*alignment)
        }
        Some(other) => Err(Malformed {
            place: Place::Key(key.into()),
            offset: 0,
            found: match other {
                Value::Unsigned(alignment) => alignment.to_string(),
                other => other.type_name().into(),
            },
            expected: format!("a power of two from 8 to {MAX_ALIGNMENT}"),
        }),
    }
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Tensor>, Malformed> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for number in 0..count {
        let start = cursor.offset();
        let name = cursor
            .string(MAX_NAME_BYTES)
            .map_err(|fault| fault.at(Place::TensorNumber(number)))?;
        let tensor = read_tensor(cursor, name, start).map_err(|fault| fault.at(Place::Tensor(name.to_owned())))?;
        if !names.insert(name) {
            return Err(Malformed {
                place: Place::Tensor(name.to_owned()),
                offset: start,
                found: "the name a second time".into(),
                expected: "each tensor once".into(),
            });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// Reads a description; the range starts at the offset within the data section until [`place`] moves it.
fn read_tensor(cursor: &mut Cursor<'_>, name: &str, described_at: u64) -> Result<Tensor, Fault> {
    let start = cursor.offset();
    let fault = |found: String, expected: String| Fault {
        offset: start,
        found,
        expected,
    };
    let count = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&count) {
        return Err(fault(format!("{count} dimensions"), format!("1 to {MAX_DIMENSIONS}")));
    }
    let dimensions = (0..count).map(|_| cursor.dimension()).collect::<Result<Vec<_>, _>>()?;
    let id = cursor.u32()?;
    let offset = cursor.u64()?;
    let tensor_type = TensorType::by_id(id).ok_or_else(|| {
        fault(
            format!("tensor type {id}"),
            "a tensor type that this version knows".into(),
        )
    })?;
    let bytes = data_bytes(&dimensions, tensor_type).map_err(|(found, expected)| fault(found, expected))?;
    let range = usize::try_from(offset)
        .ok()
        .and_then(|offset| Some(offset..offset.checked_add(bytes)?))
        .ok_or_else(|| {
            fault(
                format!("{bytes} bytes from offset {offset}"),
                "a range within the file".into(),
            )
        })?;
    Ok(Tensor {
        name: name.to_owned(),
        dimensions,
        tensor_type,
        range,
        described_at,
        part: 0,
    })
}

fn data_bytes(dimensions: &[usize], tensor_type: &TensorType) -> Result<usize, (String, String)> {
    let block = tensor_type.block_len;
    if !dimensions[0].is_multiple_of(block) {
        return Err((
            format!("rows of {} values", dimensions[0]),
            format!("a multiple of {block}, the block of {}", tensor_type.name),
        ));
    }
    if dimensions.contains(&0) {
        return Err((format!("dimensions {dimensions:?}"), "no dimension of 0".into()));
    }
    dimensions
        .iter()
        .try_fold(1_usize, |product, dimension| product.checked_mul(*dimension))
        .and_then(|values| (values / block).checked_mul(tensor_type.block_bytes))
        .ok_or_else(|| {
            (
                format!("dimensions {dimensions:?}"),
                "a size within this machine's addresses".into(),
            )
        })
}

fn place(tensor: &mut Tensor, data_start: u64, alignment: u64, file_bytes: u64) -> Result<(), Malformed> {
    let fault = |found: String, expected: String| {
        Err(Malformed {
            place: Place::Tensor(tensor.name.clone()),
            offset: tensor.described_at,
            found,
            expected,
        })
    };
    let Range { start, end } = tensor.range;
    if !(start as u64).is_multiple_of(alignment) {
        return fault(
            format!("data offset {start}"),
            format!("a multiple of the alignment, {alignment}"),
        );
    }
    let moved = |at: usize| (at as u64).checked_add(data_start).filter(|at| *at <= file_bytes);
    let (Some(start), Some(end)) = (moved(start), moved(end)) else {
        let available = file_bytes.saturating_sub(data_start);
        return fault(
            format!("data up to byte {end} of the data section"),
            format!("at most {available} bytes, where the file ends"),
        );
    };
    let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
        return fault(
            format!("data up to byte {end}"),
            "a file that fits this machine's addresses".into(),
        );
    };
    tensor.range = start..end;
    Ok(())
}

fn refuse_overlaps(tensors: &[Tensor]) -> Result<(), Malformed> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.range.start);
    for pair in sorted.windows(2) {
        let [first, second] = pair else { continue };
        if first.range.end > second.range.start {
            return Err(Malformed {
                place: Place::Tensor(second.name.clone()),
                offset: second.described_at,
                found: format!("data that overlaps tensor {:?}", first.name),
                expected: "data of its own".into(),
            });
        }
    }
    Ok(())
}
