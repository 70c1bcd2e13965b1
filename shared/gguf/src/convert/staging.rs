//! A folder that is written beside its final place and moved there whole, or removed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::Error;

/// The file whose presence says that a folder was made by an import.
pub(super) const MARKER: &str = "import.json";

const BUFFER_BYTES: usize = 1 << 20;
const MAX_ATTEMPTS: u32 = 100;

/// A folder in the making. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    out_dir: PathBuf,
    published: bool,
}

/// Why writing a file stopped: the output failed or the source did.
#[derive(Debug)]
pub(super) enum Failure {
    Output(io::Error),
    Source(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl Staging {
    pub(super) fn beside(out_dir: &Path, overwrite: bool) -> Result<Self, Error> {
        refuse_to_lose_files(out_dir, overwrite)?;
        let name = out_dir.file_name().ok_or_else(|| Error::Io {
            action: "use as an output folder",
            path: out_dir.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it has no name of its own"),
        })?;
        let parent = parent(out_dir);
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
        let path = create_sibling(&parent.join(format!(".{}.importing", name.to_string_lossy())))?;
        Ok(Self {
            path,
            out_dir: out_dir.to_owned(),
            published: false,
        })
    }

    /// Writes one file and waits until it is on the disk.
    fn write(
        &self,
        name: &str,
        access: Access,
        content: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Error> {
        let path = self.path.join(name);
        let write = || {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(&path)?);
            content(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            if access == Access::ReadOnly {
                let mut permissions = file.metadata()?.permissions();
                permissions.set_readonly(true);
                file.set_permissions(permissions)?;
            }
            file.sync_all()?;
            Ok(())
        };
        write().map_err(|failure| match failure {
            Failure::Output(source) => failed("write", &self.out_dir.join(name))(source),
            Failure::Source(error) => error,
        })
    }

    /// Writes a file that will be mapped: read-only, so that nobody changes it by accident under a running worker.
    pub(super) fn write_mapped(
        &self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), Error> {
        self.write(name, Access::ReadOnly, content)
    }

    pub(super) fn write_json(&self, name: &str, document: &Json) -> Result<(), Error> {
        self.write(name, Access::ReadWrite, |out| {
            serde_json::to_writer_pretty(&mut *out, document).map_err(io::Error::from)?;
            Ok(out.write_all(b"\n")?)
        })
    }

    /// Moves the folder to its place. An older one is set aside first and removed last.
    pub(super) fn publish(mut self) -> Result<(), Error> {
        sync_dir(&self.path)?;
        let moved = |from: &Path, to: &Path| fs::rename(from, to).map_err(failed("move the finished folder to", to));
        if is_empty_or_absent(&self.out_dir)? {
            moved(&self.path, &self.out_dir)?;
        } else {
            let aside = create_sibling(&self.path.with_extension("replaced"))?;
            moved(&self.out_dir, &aside)?;
            if let Err(error) = moved(&self.path, &self.out_dir) {
                moved(&aside, &self.out_dir)?;
                return Err(error);
            }
            fs::remove_dir_all(&aside).map_err(failed("remove the replaced folder", &aside))?;
        }
        self.published = true;
        sync_dir(parent(&self.out_dir))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // The error that led here is the one worth telling.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn refuse_to_lose_files(out_dir: &Path, overwrite: bool) -> Result<(), Error> {
    if is_empty_or_absent(out_dir)? {
        return Ok(());
    }
    let dir = out_dir.to_owned();
    if !overwrite {
        return Err(Error::OutputExists { dir });
    }
    if !out_dir.join(MARKER).is_file() {
        return Err(Error::NotAnImport { dir });
    }
    Ok(())
}

fn is_empty_or_absent(dir: &Path) -> Result<bool, Error> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("look into", dir)(error)),
    }
}

/// Creates a new folder, numbered so that one left behind by a killed import is no obstacle.
fn create_sibling(stem: &Path) -> Result<PathBuf, Error> {
    let mut attempt = 0;
    loop {
        let path = stem.with_added_extension(format!("{}-{attempt}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < MAX_ATTEMPTS => attempt += 1,
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}
