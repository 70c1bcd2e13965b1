//! MLX's shared library and headers, out of the wheels that MLX publishes.
//!
//! `xtask/wheels/<backend>.txt` lists them with their check sums, which pip verifies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Backend;
use crate::{process, publish};

/// The version that mlx-sys's mlx-c is written for; the lists of wheels name the same.
pub(crate) const VERSION: &str = "0.32.2";

/// Wheel platforms that glibc 2.35 and later run, which MLX asks for.
const PLATFORMS: [&str; 6] = [
    "manylinux_2_35",
    "manylinux_2_27",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_12",
    "manylinux_2_5",
];

/// The name of a backend's folder in the cache, up to the architecture.
pub(crate) fn folder_stem(backend: Backend) -> String {
    format!("mlx-{VERSION}-{}-", backend.name())
}

/// Returns the folder that holds MLX's `lib` and `include`, downloading the wheels when they are not in the cache.
///
/// # Errors
/// When there is no wheel for the machine, pip fails, or a download is not the file we know.
pub(crate) fn install(cache: &Path, workspace: &Path, triple: &str, backend: Backend) -> Result<PathBuf> {
    let architecture = triple.split('-').next().unwrap_or_default();
    if !["x86_64", "aarch64"].contains(&architecture) {
        bail!("MLX {VERSION} has no wheel for {triple}: use x86_64 or aarch64");
    }
    let list = workspace.join(format!("xtask/wheels/{}.txt", backend.name()));
    let folder = cache.join(format!("{}{architecture}", folder_stem(backend)));
    publish::once(&folder, |draft| {
        eprintln!("MLX: downloading {VERSION} for {} ({})", backend.name(), list.display());
        for wheel in download(&list, architecture, draft)? {
            process::run(
                Command::new("python3")
                    .args(["-m", "zipfile", "-e"])
                    .arg(&wheel)
                    .arg(draft),
            )?;
            fs::remove_file(&wheel).with_context(|| format!("cannot remove {}", wheel.display()))?;
        }
        Ok(())
    })?;
    Ok(folder.join("mlx"))
}

fn download(list: &Path, architecture: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]);
    for platform in PLATFORMS {
        pip.arg("--platform").arg(format!("{platform}_{architecture}"));
    }
    pip.arg("--require-hashes")
        .arg("--dest")
        .arg(folder)
        .arg("--requirement")
        .arg(list);
    process::run(&mut pip).context("cannot download MLX: Python 3 with pip and a package index are needed once")?;
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(files
        .filter(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .collect())
}
