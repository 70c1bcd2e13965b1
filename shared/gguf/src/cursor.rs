//! Bounds-checked little-endian reading. Nothing is allocated here from a length the file claims.

use crate::error::{Malformed, Place};

/// A violation whose place the caller knows.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) offset: u64,
    pub(crate) found: String,
    pub(crate) expected: String,
}

impl Fault {
    pub(crate) fn at(self, place: Place) -> Malformed {
        Malformed {
            place,
            offset: self.offset,
            found: self.found,
            expected: self.expected,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(crate) fn fault(&self, found: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault {
            offset: self.offset(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.fault(
                format!("the end of the file after {} bytes", self.remaining()),
                format!("{len} bytes"),
            )),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number that must fit this machine's addresses.
    pub(crate) fn dimension(&mut self) -> Result<usize, Fault> {
        let before = self.offset();
        let number = self.u64()?;
        usize::try_from(number).map_err(|_| Fault {
            offset: before,
            found: number.to_string(),
            expected: "a number within this machine's addresses".into(),
        })
    }

    /// A count of items of at least `item_bytes` each, refused when the rest of the file could not hold them.
    pub(crate) fn count(&mut self, item_bytes: u64) -> Result<u64, Fault> {
        let before = self.at;
        let count = self.u64()?;
        let most = self.remaining() / item_bytes;
        if count > most {
            self.at = before;
            return Err(self.fault(
                format!("a count of {count}"),
                format!("at most {most}, all that fits in the file's remaining bytes"),
            ));
        }
        Ok(count)
    }

    /// A UTF-8 string of at most `max_bytes`.
    pub(crate) fn string(&mut self, max_bytes: u64) -> Result<&'a str, Fault> {
        let len = self.count(1)?;
        if len > max_bytes {
            return Err(self.fault(format!("a string of {len} bytes"), format!("at most {max_bytes} bytes")));
        }
        let start = self.offset();
        std::str::from_utf8(self.take(len)?).map_err(|error| Fault {
            offset: start + error.valid_up_to() as u64,
            found: "a byte that is not UTF-8".into(),
            expected: "UTF-8 text".into(),
        })
    }
}
