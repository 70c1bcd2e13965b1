//! Metadata values. Whole numbers are widened; arrays of scalars keep the file's bytes, so that a value never takes
//! much more memory than it takes in the file.

use crate::cursor::{Cursor, Fault};

const MAX_NESTING: u32 = 4;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// 32-bit float.
    Float32(f32),
    /// 64-bit float.
    Float64(f64),
    /// Truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Array),
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Numbers or truth values, as the file's bytes.
    Scalars(ScalarArray),
    /// Texts.
    Strings(Vec<String>),
    /// Arrays of arrays.
    Nested(Vec<Array>),
}

/// Numbers or truth values, as the file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarArray {
    kind: Kind,
    bytes: Vec<u8>,
}

impl ScalarArray {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements, if they are 32-bit floats.
    #[must_use]
    pub fn floats(&self) -> Option<Vec<f32>> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|element| match scalar(self.kind, element) {
                Some(Value::Float32(value)) => Some(value),
                _ => None,
            })
            .collect()
    }

    /// The elements, if they are integers that fit.
    #[must_use]
    pub fn integers(&self) -> Option<Vec<i64>> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|element| match scalar(self.kind, element) {
                Some(Value::Unsigned(value)) => i64::try_from(value).ok(),
                Some(Value::Signed(value)) => Some(value),
                _ => None,
            })
            .collect()
    }
}

impl Value {
    /// The type in words, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float32(_) => "a 32-bit float",
            Self::Float64(_) => "a 64-bit float",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a string",
            Self::Array(Array::Scalars(_)) => "an array of scalars",
            Self::Array(Array::Strings(_)) => "an array of strings",
            Self::Array(Array::Nested(_)) => "an array of arrays",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// In the order of the format's type numbers.
const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::String,
    Kind::Array,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let number = cursor.u32()?;
        KINDS.get(number as usize).copied().ok_or_else(|| Fault {
            offset: cursor.offset() - 4,
            found: format!("value type {number}"),
            expected: format!("a value type from 0 to {}", KINDS.len() - 1),
        })
    }

    /// Bytes of one element; of strings and arrays the fewest possible.
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// Reads a value with its type number.
pub(crate) fn read_value(cursor: &mut Cursor<'_>) -> Result<Value, Fault> {
    match Kind::read(cursor)? {
        Kind::String => Ok(Value::String(cursor.string(u64::MAX)?.to_owned())),
        Kind::Array => Ok(Value::Array(read_array(cursor, 1)?)),
        kind => {
            let start = cursor.offset();
            let bytes = cursor.take(kind.bytes() as u64)?;
            scalar(kind, bytes).ok_or_else(|| bad_bool(start))
        }
    }
}

fn read_array(cursor: &mut Cursor<'_>, depth: u32) -> Result<Array, Fault> {
    if depth > MAX_NESTING {
        return Err(cursor.fault(
            "an array inside an array, again",
            format!("at most {MAX_NESTING} levels of arrays"),
        ));
    }
    let kind = Kind::read(cursor)?;
    let count = cursor.count(kind.bytes() as u64)?;
    match kind {
        Kind::String => (0..count)
            .map(|_| cursor.string(u64::MAX).map(str::to_owned))
            .collect::<Result<_, _>>()
            .map(Array::Strings),
        Kind::Array => (0..count)
            .map(|_| read_array(cursor, depth + 1))
            .collect::<Result<_, _>>()
            .map(Array::Nested),
        kind => {
            let start = cursor.offset();
            let bytes = cursor.take(count * kind.bytes() as u64)?.to_vec();
            if kind == Kind::Bool && bytes.iter().any(|byte| *byte > 1) {
                return Err(bad_bool(start));
            }
            Ok(Array::Scalars(ScalarArray { kind, bytes }))
        }
    }
}

fn bad_bool(offset: u64) -> Fault {
    Fault {
        offset,
        found: "another byte".into(),
        expected: "0 or 1 for a truth value".into(),
    }
}

/// `None` for a truth value other than 0 and 1, and for kinds that are no scalars.
fn scalar(kind: Kind, bytes: &[u8]) -> Option<Value> {
    Some(match kind {
        Kind::U8 => Value::Unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I8 => Value::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
        Kind::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
        Kind::F32 => Value::Float32(f32::from_le_bytes(bytes.try_into().ok()?)),
        Kind::F64 => Value::Float64(f64::from_le_bytes(bytes.try_into().ok()?)),
        Kind::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Kind::String | Kind::Array => return None,
    })
}
