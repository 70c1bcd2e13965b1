//! Set-up of MLX: the one place that knows how both platforms get it.
//!
//! macOS: mlx-sys's own build script compiles MLX with Metal, so there is nothing to do.
//! Linux: MLX's shared library and headers come from its Python wheel, mlx-c is compiled from the source inside the mlx-sys
//! package, and cargo's links override (`.cargo/mlx.toml`) puts both in the place of mlx-sys's build script.

mod bindings;
mod cargo_config;
mod native;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{environment, process, publish};

/// A build of MLX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// CPU only.
    Cpu,
    /// NVIDIA cards, CUDA 13.
    Cuda13,
}

/// What the compile steps read.
struct Sources {
    /// Folder that holds `mlx/*.h` and C++ headers of MLX.
    mlx_include: PathBuf,
    /// Root of mlx-c inside the mlx-sys package.
    mlx_c: PathBuf,
    workspace: PathBuf,
    triple: String,
}

/// Returns whether cargo links MLX for CUDA here.
///
/// # Errors
/// When there is no workspace around.
pub(crate) fn is_for_cuda() -> Result<bool> {
    let file = environment::workspace_root()?.join(".cargo/mlx.toml");
    let written = fs::read_to_string(file).unwrap_or_default();
    Ok(written.contains(&wheel::folder_stem(Backend::Cuda13)))
}

/// Prepares MLX for cargo; quick and offline when that has been done before.
///
/// # Errors
/// When a download, a check sum, the compiler or libclang fails; each error names its cure.
pub(crate) fn set_up(backend: Backend) -> Result<()> {
    let triple = environment::host_triple()?;
    if triple.contains("apple") {
        if backend != Backend::Cpu {
            bail!("MLX has no CUDA on macOS: leave --backend out, Metal is built in");
        }
        eprintln!("MLX: nothing to set up on macOS, cargo builds it with Metal");
        return Ok(());
    }
    if !triple.contains("linux-gnu") {
        bail!("no build of MLX for {triple}: use Linux with glibc (x86_64, aarch64) or macOS");
    }
    let cache = environment::cache()?;
    let workspace = environment::workspace_root()?;
    let mlx = wheel::install(&cache, &workspace, &triple, backend)?;
    let mlx_c = locate_mlx_c(&workspace, &triple)?;
    let sources = Sources {
        mlx_include: mlx.join("include"),
        mlx_c,
        workspace,
        triple,
    };
    let compiled = compile(&cache, &sources)?;
    let written = cargo_config::write(&cargo_config::Paths {
        triple: &sources.triple,
        workspace: &sources.workspace,
        compiled: &compiled,
        mlx: &mlx,
        mlx_c: &sources.mlx_c,
    })?;
    let note = if written { "written" } else { "unchanged" };
    eprintln!(
        "MLX {} ({}) ready, .cargo/mlx.toml {note}",
        wheel::VERSION,
        backend.name()
    );
    Ok(())
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda13 => "cuda13",
        }
    }
}

/// Returns the folder of the static archives and `bindings.rs`. Its name is a digest of all that went in, so that cargo
/// sees another path, and links again, whenever an archive's content changes.
fn compile(cache: &Path, sources: &Sources) -> Result<PathBuf> {
    let compiler = native::Compiler::find(sources)?;
    let folder = cache.join(format!("mlx-c-{}", native::digest(sources, &compiler)?));
    publish::once(&folder, |draft| {
        native::compile(sources, &compiler, draft)?;
        eprintln!("MLX: generating Rust bindings");
        bindings::generate(&sources.mlx_c, draft)
    })
}

/// Asks cargo where the mlx-sys package is, fetching the workspace's packages if they are not there yet.
fn locate_mlx_c(workspace: &Path, triple: &str) -> Result<PathBuf> {
    let metadata = |network: &[&str]| {
        let mut command = Command::new(environment::cargo());
        command
            .args(["metadata", "--format-version", "1", "--filter-platform", triple])
            .args(network);
        command.current_dir(workspace);
        command
    };
    let text = process::output(&mut metadata(&["--offline"])).or_else(|_| {
        eprintln!("MLX: fetching the workspace's crates");
        process::output(&mut metadata(&[]))
    })?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("cannot read the output of cargo metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let manifest = packages.iter().find(|package| package["name"] == "mlx-sys");
    let manifest = manifest.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.context("the workspace does not depend on mlx-sys")?;
    Ok(Path::new(manifest).with_file_name("src").join("mlx-c"))
}
