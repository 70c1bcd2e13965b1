//! MLX's shared library and headers, out of the wheels that MLX publishes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::Backend;
use crate::{process, publish};

/// The version that mlx-sys's mlx-c is written for.
pub(crate) const VERSION: &str = "0.32.2";

struct Wheel {
    architecture: &'static str,
    backend: Backend,
    package: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        architecture: "x86_64",
        backend: Backend::Cpu,
        package: "mlx-cpu",
        sha256: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    },
    Wheel {
        architecture: "aarch64",
        backend: Backend::Cpu,
        package: "mlx-cpu",
        sha256: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
    Wheel {
        architecture: "x86_64",
        backend: Backend::Cuda13,
        package: "mlx-cuda-13",
        sha256: "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
    },
    Wheel {
        architecture: "aarch64",
        backend: Backend::Cuda13,
        package: "mlx-cuda-13",
        sha256: "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    },
];

/// Returns the folder that holds MLX's `lib` and `include`, downloading the wheel when it is not in the cache.
///
/// # Errors
/// When there is no wheel for the machine, pip fails, or the download is not the file we know.
pub(crate) fn install(cache: &Path, triple: &str, backend: Backend) -> Result<PathBuf> {
    let architecture = triple.split('-').next().unwrap_or_default();
    let wheel = WHEELS
        .iter()
        .find(|wheel| wheel.architecture == architecture && wheel.backend == backend);
    let wheel = wheel.with_context(|| format!("MLX {VERSION} has no {} wheel for {triple}", backend.name()))?;
    let folder = cache.join(format!("{}-{VERSION}-{architecture}", wheel.package));
    publish::once(&folder, |draft| {
        eprintln!("MLX: downloading {} {VERSION}", wheel.package);
        let file = download(wheel, draft)?;
        verify(&file, wheel.sha256)?;
        process::run(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(&file)
                .arg(draft),
        )?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    })?;
    Ok(folder.join("mlx"))
}

fn download(wheel: &Wheel, folder: &Path) -> Result<PathBuf> {
    let platform = format!("manylinux_2_35_{}", wheel.architecture);
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
    pip.args(["--platform", &platform, "--dest"])
        .arg(folder)
        .arg(format!("{}=={VERSION}", wheel.package));
    process::run(&mut pip).context("cannot download MLX: Python 3 with pip and a package index are needed once")?;
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    files
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .context("pip left no wheel behind")
}

fn verify(file: &Path, expected: &str) -> Result<()> {
    let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = format!("{:x}", Sha256::digest(content));
    if found != expected {
        bail!(
            "{} has sha256 {found}, expected {expected}: the package index served another file",
            file.display()
        );
    }
    Ok(())
}
