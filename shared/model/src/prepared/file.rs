//! The file of prepared weights: made once, mapped by everybody.
#![expect(unsafe_code, reason = "maps a file that another process could change")]

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use kr_kernels::quantized::{Checksum, pack_panels};
use memmap2::Mmap;

use super::format::{self, Entry};
use super::lock::lock;
use super::plan::{self, Plan};
use crate::weights::Weights;

/// Bytes that are packed before they are written.
const PIECE: usize = 1 << 20;

/// A mapped file that was verified.
#[derive(Debug)]
pub(super) struct PreparedFile {
    map: Mmap,
    #[cfg(test)]
    inode: u64,
}

impl PreparedFile {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Which file it is.
    #[cfg(test)]
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Maps and verifies `path`.
    fn open(path: &Path, source: &str) -> io::Result<(Self, Vec<Entry>)> {
        let file = File::open(path)?;
        // SAFETY: files of this name are replaced, never written to or truncated, by us; that nobody else does is a requirement on
        // whoever keeps the cache folder.
        let map = unsafe { Mmap::map(&file) }?;
        match format::read(&map, source) {
            Ok(entries) => {
                let file = Self {
                    map,
                    #[cfg(test)]
                    inode: std::os::unix::fs::MetadataExt::ino(&file.metadata()?),
                };
                Ok((file, entries))
            }
            Err(problem) => Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
        }
    }
}

/// Opens `path`; makes it first where it is missing or damaged. `None` where there is nothing to put into it.
pub(super) fn open_or_make(
    path: &Path,
    source: &str,
    plan: impl FnOnce() -> Plan,
    weights: &Weights,
) -> io::Result<Option<(PreparedFile, Vec<Entry>)>> {
    if let Ok(opened) = PreparedFile::open(path, source) {
        return Ok(Some(opened));
    }
    let plan = plan();
    if plan.is_empty() {
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let _lock = lock(&path.with_extension("lock"))?;
    // Another worker may have been faster.
    match PreparedFile::open(path, source) {
        Ok(opened) => return Ok(Some(opened)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(path = %path.display(), error, "prepared weights are damaged: making them again");
        }
    }
    make(path, source, &plan, weights)?;
    PreparedFile::open(path, source).map(Some)
}

/// Writes the file beside its name and renames it when all of it has reached the disk.
fn make(path: &Path, source: &str, plan: &Plan, weights: &Weights) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    let written = write(&mut file, source, plan, weights).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of it is of no use; the error that counts is the first one.
        drop(fs::remove_file(&temporary));
    }
    written?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write(file: &mut File, source: &str, plan: &Plan, weights: &Weights) -> io::Result<()> {
    let start = format::data_start(source, &plan.entries(0));
    let mut entries = plan.entries(start);
    file.seek(SeekFrom::Start(start as u64))?;
    let mut piece = Vec::new();
    for entry in &mut entries {
        let layout = entry.layout;
        let tensors = plan::source(weights, &entry.name).ok_or(io::ErrorKind::NotFound)?;
        let step = (PIECE / layout.panel_bytes()).max(1);
        let mut checksum = Checksum::default();
        for first in (0..layout.panels()).step_by(step) {
            let panels = first..layout.panels().min(first + step);
            piece.resize(panels.len() * layout.panel_bytes(), 0);
            pack_panels(&layout, tensors, panels, &mut piece);
            checksum.add(&piece);
            file.write_all(&piece)?;
        }
        entry.checksum = checksum.value();
        plan::forget(weights, &entry.name);
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&format::front(source, &entries, start))?;
    file.sync_all()
}
