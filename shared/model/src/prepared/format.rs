//! The file's header.
//!
//! A preamble of 64 bytes, all numbers little-endian: the magic word, version (4 bytes), length of the header (4), its checksum (8)
//! and the length of the whole file (8). Then the header in JSON, padded with spaces, and the panels of each matrix.

use std::ops::Range;

use kr_kernels::quantized::{Bits, Checksum, Layout, ScaleType};
use serde::{Deserialize, Serialize};

/// Names how weights are packed: in panels of sixteen outputs.
pub(super) const LAYOUT: &str = "panel16";

/// Counts changes of the file's form.
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"KRPANELS";
const PREAMBLE: usize = 64;

/// Panels begin at a page.
const PAGE: usize = 4096;

/// One matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The layer's.
    pub(super) name: String,
    /// Of its first byte in the file.
    pub(super) offset: usize,
    pub(super) layout: Layout,
    /// Of its bytes.
    pub(super) checksum: u64,
}

impl Entry {
    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.layout.bytes()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    layout: String,
    /// The model's digest.
    source: String,
    matrices: Vec<Matrix>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Matrix {
    name: String,
    offset: usize,
    shape: [usize; 2],
    group: usize,
    bits: usize,
    scales: String,
    checksum: u64,
}

impl From<&Entry> for Matrix {
    fn from(entry: &Entry) -> Self {
        let scales = match entry.layout.scales() {
            ScaleType::Float32 => "float32",
            ScaleType::Float16 => "float16",
            ScaleType::Bfloat16 => "bfloat16",
        };
        Self {
            name: entry.name.clone(),
            offset: entry.offset,
            shape: [entry.layout.outputs(), entry.layout.inputs()],
            group: entry.layout.group(),
            bits: entry.layout.bits().count(),
            scales: scales.to_owned(),
            checksum: entry.checksum,
        }
    }
}

impl Matrix {
    fn entry(self) -> Option<Entry> {
        let bits = match self.bits {
            4 => Bits::Four,
            8 => Bits::Eight,
            _ => return None,
        };
        let scales = match self.scales.as_str() {
            "float32" => ScaleType::Float32,
            "float16" => ScaleType::Float16,
            "bfloat16" => ScaleType::Bfloat16,
            _ => return None,
        };
        Some(Entry {
            name: self.name,
            offset: self.offset,
            layout: Layout::new(self.shape, self.group, bits, scales)?,
            checksum: self.checksum,
        })
    }
}

/// Where the panels begin behind a header for these entries, whatever their offsets and checksums are.
pub(super) fn data_start(source: &str, entries: &[Entry]) -> usize {
    let widest = entries.iter().map(|entry| Entry {
        offset: usize::MAX,
        checksum: u64::MAX,
        ..entry.clone()
    });
    (PREAMBLE + json(source, &widest.collect::<Vec<_>>()).len()).next_multiple_of(PAGE)
}

/// The bytes in front of the panels, the first of which begins at `data_start`.
pub(super) fn front(source: &str, entries: &[Entry], data_start: usize) -> Vec<u8> {
    let mut header = json(source, entries);
    header.resize(data_start - PREAMBLE, b' ');
    let end = entries.last().map_or(data_start, |entry| entry.range().end);
    let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let mut front = MAGIC.to_vec();
    front.extend(VERSION.to_le_bytes());
    front.extend(length.to_le_bytes());
    front.extend(checksum(&header).to_le_bytes());
    front.extend((end as u64).to_le_bytes());
    front.resize(PREAMBLE, 0);
    front.extend(header);
    front
}

fn json(source: &str, entries: &[Entry]) -> Vec<u8> {
    let header = Header {
        layout: LAYOUT.to_owned(),
        source: source.to_owned(),
        matrices: entries.iter().map(Matrix::from).collect(),
    };
    // Strings and numbers only: it cannot fail, and an empty header would be refused when it is read.
    serde_json::to_vec(&header).unwrap_or_default()
}

/// Reads a file's header and verifies every byte; says what is wrong with it.
pub(super) fn read(file: &[u8], source: &str) -> Result<Vec<Entry>, &'static str> {
    let (preamble, rest) = file
        .split_first_chunk::<PREAMBLE>()
        .ok_or("it ends within the preamble")?;
    let (magic, numbers) = preamble.split_first_chunk::<8>().ok_or("it ends within the preamble")?;
    if *magic != MAGIC {
        return Err("it is no file of prepared weights");
    }
    let number = |at: usize| {
        numbers[at..]
            .first_chunk::<4>()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let long = |at: usize| {
        numbers[at..]
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if number(0) != VERSION {
        return Err("it is of another version");
    }
    if long(16) != file.len() as u64 {
        return Err("it has another length than its header says");
    }
    let header = rest.get(..number(4) as usize).ok_or("it ends within the header")?;
    if checksum(header) != long(8) {
        return Err("its header is damaged");
    }
    let header: Header = serde_json::from_slice(header).map_err(|_| "its header cannot be read")?;
    if header.layout != LAYOUT || header.source != source {
        return Err("it was made from other weights");
    }
    let entries: Option<Vec<_>> = header.matrices.into_iter().map(Matrix::entry).collect();
    let entries = entries.ok_or("its header describes an unknown layout")?;
    for entry in &entries {
        let end = entry.offset.checked_add(entry.layout.bytes());
        let bytes = end
            .and_then(|end| file.get(entry.offset..end))
            .ok_or("a matrix lies outside of it")?;
        if checksum(bytes) != entry.checksum {
            return Err("a matrix is damaged");
        }
    }
    Ok(entries)
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut checksum = Checksum::default();
    checksum.add(bytes);
    checksum.value()
}
