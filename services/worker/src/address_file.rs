//! The file that tells others where the worker listens.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::listen::Listen;

/// A written file. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct AddressFile(PathBuf);

impl AddressFile {
    /// Writes `address` to `path`; a reader sees all of it or nothing.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(crate) fn write(path: &Path, address: &Listen) -> Result<Self, Error> {
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        fs::write(&draft, address.to_string())
            .and_then(|()| fs::rename(&draft, path))
            .map_err(|source| Error::AddressFile {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // A reader finds that nobody answers there.
        let _ = fs::remove_file(&self.0);
    }
}
