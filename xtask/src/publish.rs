//! Folders that are either absent or complete: filled beside their place, then renamed into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Returns `folder`, filling it first when it does not exist yet.
///
/// `fill` gets an empty folder on the same file system. When it fails nothing is left behind; when two processes fill the same
/// folder the first one to finish wins and the other's work is dropped.
///
/// # Errors
/// Whatever `fill` returns, or a failure to make, rename or remove a folder.
pub(crate) fn once(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if folder.is_dir() {
        return Ok(folder.to_path_buf());
    }
    let mut draft = folder.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    fs::create_dir_all(&draft).with_context(|| format!("cannot make {}", draft.display()))?;
    let filled = fill(&draft).and_then(|()| match fs::rename(&draft, folder) {
        Err(_) if folder.is_dir() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot rename {} to {}", draft.display(), folder.display())),
    });
    if draft.is_dir() {
        fs::remove_dir_all(&draft).with_context(|| format!("cannot remove {}", draft.display()))?;
    }
    filled.map(|()| folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kr-publish-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_folder_is_filled_once() {
        let scratch = scratch("once");
        let folder = scratch.join("made");
        once(&folder, |draft| Ok(fs::write(draft.join("file"), "first")?)).unwrap();
        once(&folder, |_| anyhow::bail!("filled twice")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "first");
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn a_failed_fill_leaves_nothing_behind() {
        let scratch = scratch("failed");
        let failed = once(&scratch.join("made"), |draft| {
            fs::write(draft.join("half"), "done")?;
            anyhow::bail!("no more")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        fs::remove_dir_all(scratch).unwrap();
    }
}
