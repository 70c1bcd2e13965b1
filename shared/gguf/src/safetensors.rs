//! Reads the headers of safetensors files, and writes files whose tensors all begin at a multiple of 64 bytes, so that they can be used from a mapping
//! without a copy.
//!
//! The format allows no holes between tensors. Tensors whose size is a multiple of 64 keep every later one aligned, so
//! they come first; behind each other one stands a `U8` tensor `__padding_N` that fills the gap. Readers ignore it.

mod read;

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};

pub(crate) use read::{StoredTensor, read_header};

/// Every tensor's first byte lies at a multiple of this in the file.
pub(crate) const ALIGNMENT: usize = 64;

/// Names of padding begin with this.
const PADDING: &str = "__padding_";

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    Float32,
    Float16,
    Bfloat16,
    Uint32,
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "F32",
            Self::Float16 => "F16",
            Self::Bfloat16 => "BF16",
            Self::Uint32 => "U32",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Float32 | Self::Uint32 => 4,
            Self::Float16 | Self::Bfloat16 => 2,
        }
    }
}

impl Entry {
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }

    fn padding(&self) -> usize {
        self.bytes().next_multiple_of(ALIGNMENT) - self.bytes()
    }
}

/// The order and the header of a file.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Indices of the entries, in file order, each with the zero bytes that follow it.
    pub(crate) order: Vec<(usize, usize)>,
    header: Vec<u8>,
    data_bytes: usize,
}

impl Layout {
    /// `format` names the framework the file was made for, as other readers expect it in the metadata.
    pub(crate) fn of(entries: &[Entry], format: &str) -> Self {
        let mut order: Vec<_> = (0..entries.len()).collect();
        order.sort_by_key(|index| entries[*index].padding() != 0);

        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": format }));
        let mut end = 0;
        let mut describe = |name: String, dtype: &str, shape: Json, bytes: usize| {
            let start = end;
            end += bytes;
            header.insert(
                name,
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
            );
        };
        let mut padded = Vec::new();
        for (position, index) in order.iter().enumerate() {
            let entry = &entries[*index];
            describe(
                entry.name.clone(),
                entry.dtype.name(),
                json!(entry.shape),
                entry.bytes(),
            );
            let is_last = position + 1 == order.len();
            let padding = if is_last { 0 } else { entry.padding() };
            if padding > 0 {
                describe(format!("{PADDING}{position}"), "U8", json!([padding]), padding);
            }
            padded.push((*index, padding));
        }

        let mut header = Json::Object(header).to_string().into_bytes();
        let unpadded = header.len() + 8;
        header.resize(unpadded.next_multiple_of(ALIGNMENT) - 8, b' ');
        Self {
            order: padded,
            header,
            data_bytes: end,
        }
    }

    /// Bytes of the whole file.
    pub(crate) fn bytes(&self) -> u64 {
        8 + self.header.len() as u64 + self.data_bytes as u64
    }

    pub(crate) fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)
    }
}
