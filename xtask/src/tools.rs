//! Virtual environments of Python, kept in the cache: the tools and clients that tests run, and the peers of the benchmarks.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{environment, process, prometheus};

/// What an environment holds, as files of pip requirements relative to the workspace.
pub(crate) struct Contents<'a> {
    /// Installed as wheels.
    pub(crate) requirements: &'a Path,
    /// Compiled for this machine's processor after the wheels, with the build tools that are among them.
    pub(crate) sources: Option<&'a Path>,
}

/// Installs what tests run, unless that has been done, and prints the folder of the environment on standard output.
///
/// # Errors
/// As [`of_tests`].
pub(crate) fn install(requirements: &Path) -> Result<()> {
    let folder = of_tests(requirements)?;
    writeln!(std::io::stdout(), "{}", folder.display()).context("cannot write to standard output")
}

/// Returns the environment with what tests run, Prometheus too where it can be had.
///
/// # Errors
/// When Python, pip or the download fails.
pub(crate) fn of_tests(requirements: &Path) -> Result<PathBuf> {
    let folder = environment_of(&Contents {
        requirements,
        sources: None,
    })?;
    if let Err(error) = prometheus::link_into(&folder.join("bin")) {
        eprintln!(
            "tools: no prometheus, the tests that scrape with it will fail (install the package prometheus): {error:#}"
        );
    }
    Ok(folder)
}

/// Returns the folder of the environment, installed.
///
/// A virtual environment cannot be moved, so it is made in its place: a lock keeps others out and a file named `complete`, written
/// last, tells a whole one from the remains of an interrupted one.
///
/// # Errors
/// When Python, pip or a download fails, or sources do not compile.
pub(crate) fn environment_of(contents: &Contents<'_>) -> Result<PathBuf> {
    let folder = folder_of(contents)?;
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
    let root = environment::workspace_root()?;
    let requirements = root.join(contents.requirements);
    eprintln!("tools: installing {} into {}", requirements.display(), folder.display());
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    process::run(pip_install(&folder).arg("--requirement").arg(&requirements))?;
    if let Some(sources) = contents.sources {
        let sources = root.join(sources);
        eprintln!("tools: compiling {}, which takes minutes", sources.display());
        let mut pip = pip_install(&folder);
        pip.args(["--no-build-isolation", "--no-binary", ":all:", "--requirement"]);
        pip.arg(&sources)
            .env("PATH", environment::path_beginning_with(&folder.join("bin"))?)
            .env("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF");
        process::run(&mut pip).context("a C++ compiler is needed (Debian: g++; macOS: Xcode command line tools)")?;
    }
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(folder)
}

/// The folder's name says what is in it, which Python it is for and, for compiled sources, which processor.
fn folder_of(contents: &Contents<'_>) -> Result<PathBuf> {
    let root = environment::workspace_root()?;
    let read = |file: &Path| {
        let file = root.join(file);
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let mut digest = Sha256::new().chain_update(read(contents.requirements)?);
    let python =
        process::output(Command::new("python3").args(["-c", "import sys; print(sys.version, sys.executable)"]))?;
    digest.update(python);
    if let Some(sources) = contents.sources {
        digest.update(read(sources)?);
        digest.update(environment::processor());
    }
    let digest = format!("{:x}", digest.finalize());
    Ok(environment::cache()?.join(format!("tools-{}", &digest[..16])))
}

fn pip_install(folder: &Path) -> Command {
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    pip.args(["--progress-bar", "off", "--no-deps"]);
    pip.stdout(std::io::stderr());
    pip
}
