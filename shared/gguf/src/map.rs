//! The one place that maps a file into memory.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// A file's bytes, read on demand by the operating system.
///
/// Shrinking the file while it is mapped ends the process with SIGBUS; an import is a one-off command, so that is the
/// same as any other way to pull a file from under its reader.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |action| {
            move |source| Error::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let file = File::open(path).map_err(io("open"))?;
        map(&file).map(Self).map_err(io("map"))
    }
}

#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe because others may change it meanwhile"
)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only and only ever seen as bytes. Every byte is validated where it is used, so another
    // process that writes to the file can make a conversion wrong, which the checksum shows, but not unsound.
    unsafe { Mmap::map(file) }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
