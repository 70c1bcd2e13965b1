//! What the widest step needs beside weights and KV: measured once for a model on a machine, and remembered.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a measurement depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) fingerprint: String,
    pub(crate) model_digest: String,
    /// Of the machine, in bytes.
    pub(crate) memory: u64,
    pub(crate) step_tokens: u32,
    pub(crate) sampled_rows: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    key: Key,
    workspace_bytes: u64,
}

/// Returns what was measured before. A file that is missing, broken or of another key counts for nothing.
pub(crate) fn remembered(cache_dir: Option<&Path>, key: &Key) -> Option<u64> {
    let text = fs::read(path(cache_dir?, key)).ok()?;
    let measured: Measured = serde_json::from_slice(&text).ok()?;
    (measured.key == *key).then_some(measured.workspace_bytes)
}

/// Writes a measurement down, for other processes at once or not at all. A failure is logged only: the next start measures again.
pub(crate) fn remember(cache_dir: Option<&Path>, key: &Key, workspace_bytes: u64) {
    let Some(cache_dir) = cache_dir else { return };
    let measured = Measured {
        key: key.clone(),
        workspace_bytes,
    };
    let file = path(cache_dir, key);
    if let Err(error) = write(&file, &measured) {
        tracing::warn!(path = %file.display(), %error, "a step's measured memory cannot be kept; the next start measures again");
    }
}

fn write(file: &Path, measured: &Measured) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = file.with_extension(format!("{}.draft", std::process::id()));
    let mut target = fs::File::create(&draft)?;
    let written = target.write_all(&serde_json::to_vec(measured)?);
    written.and_then(|()| fs::rename(&draft, file)).inspect_err(|_| {
        // What is left of a draft is in nobody's way.
        let _ = fs::remove_file(&draft);
    })
}

fn path(cache_dir: &Path, key: &Key) -> PathBuf {
    let text = format!("{key:?}");
    let digest = Sha256::digest(text.as_bytes());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    cache_dir.join("workspace").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(memory: u64) -> Key {
        Key {
            fingerprint: "cpu".to_owned(),
            model_digest: "sha256:00".to_owned(),
            memory,
            step_tokens: 512,
            sampled_rows: 32,
        }
    }

    #[test]
    fn a_measurement_is_remembered_for_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Some(folder.path());
        assert_eq!(remembered(cache, &key(1)), None);
        remember(cache, &key(1), 77);
        assert_eq!(remembered(cache, &key(1)), Some(77));
        assert_eq!(remembered(cache, &key(2)), None);
        assert_eq!(remembered(None, &key(1)), None);
        let left = fs::read_dir(folder.path().join("workspace")).unwrap().count();
        assert_eq!(left, 1, "a draft is left");
    }

    #[test]
    fn a_broken_file_or_folder_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Some(folder.path());
        remember(cache, &key(1), 77);
        fs::write(path(folder.path(), &key(1)), "{").unwrap();
        assert_eq!(remembered(cache, &key(1)), None);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        remember(Some(&file), &key(1), 77);
        assert_eq!(remembered(Some(&file), &key(1)), None);
    }
}
