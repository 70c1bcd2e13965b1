//! The virtual environment with the tools and clients that tests run, kept in the cache.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{environment, process, prometheus};

/// Installs what a requirements file (relative to the workspace) lists, unless that has been done, and prints the folder of the
/// environment on standard output.
///
/// # Errors
/// When Python, pip or the download fails.
pub(crate) fn install(requirements: &Path) -> Result<()> {
    let folder = environment_of(requirements)?;
    if let Err(error) = prometheus::link_into(&folder.join("bin")) {
        eprintln!(
            "tools: no prometheus, the tests that scrape with it will fail (install the package prometheus): {error:#}"
        );
    }
    writeln!(std::io::stdout(), "{}", folder.display()).context("cannot write to standard output")
}

/// Returns the folder of the environment, installed.
///
/// A virtual environment cannot be moved, so it is made in its place: a lock keeps others out and a file named `complete`, written
/// last, tells a whole one from the remains of an interrupted one.
///
/// # Errors
/// As [`install`].
pub(crate) fn environment_of(requirements: &Path) -> Result<PathBuf> {
    let requirements = environment::workspace_root()?.join(requirements);
    let text = fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let python =
        process::output(Command::new("python3").args(["-c", "import sys; print(sys.version, sys.executable)"]))?;
    let digest = format!("{:x}", Sha256::new().chain_update(text).chain_update(python).finalize());
    let folder = environment::cache()?.join(format!("tools-{}", &digest[..16]));
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(folder);
    }
    let lock = folder.with_extension("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot lock the tools folder")?;
    if complete.is_file() {
        return Ok(folder);
    }
    eprintln!("tools: installing {} into {}", requirements.display(), folder.display());
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--no-deps",
        "--requirement",
    ]);
    process::run(pip.arg(&requirements).stdout(std::io::stderr()))?;
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(folder)
}
