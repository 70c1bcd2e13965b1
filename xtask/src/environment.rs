//! Where things are on this machine. The only file of this crate that reads the environment.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Returns the root of the workspace that cargo runs us from.
///
/// # Errors
/// When not started by cargo.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").context("start this as `cargo xtask`")?;
    let root = Path::new(&manifest).parent().context("xtask has no parent folder")?;
    Ok(root.to_path_buf())
}

/// Returns the folder where everything downloaded or compiled by the set-up is kept, made if absent.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be made.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute()) {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(env::var_os("HOME").context("HOME is not set: set it, or XDG_CACHE_HOME")?).join(".cache")
        }
    };
    let folder = base.join("kr-serve-mlx");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// Returns where `PATH` has a program.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Returns `PATH` with a folder before the others.
///
/// # Errors
/// When the folder's name has a colon.
pub(crate) fn path_beginning_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&path));
    env::join_paths(folders).context("a folder with a colon cannot be in PATH")
}

/// Returns text that differs between processors with different instructions: what is compiled for one may not run on another.
pub(crate) fn processor() -> String {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |start: &str| about.lines().find(|line| line.starts_with(start)).map(str::to_owned);
    let flags = line("flags").or_else(|| line("Features")).unwrap_or_default();
    format!("{} {flags}", env::consts::ARCH)
}

/// Returns the cargo that started us.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Returns the compiler's host triple, such as `x86_64-unknown-linux-gnu`.
///
/// # Errors
/// When rustc does not run or does not tell.
pub(crate) fn host_triple() -> Result<String> {
    about_compiler("host: ")
}

/// Returns the major version of the compiler's LLVM, such as `22`.
///
/// # Errors
/// As [`host_triple`].
pub(crate) fn llvm_version() -> Result<String> {
    let version = about_compiler("LLVM version: ")?;
    Ok(version.split('.').next().unwrap_or_default().to_owned())
}

/// Returns the folder where rustup puts the compiler's tools.
///
/// # Errors
/// As [`host_triple`].
pub(crate) fn compiler_tools() -> Result<PathBuf> {
    let root = process::output(Command::new(compiler()).args(["--print", "sysroot"]))?;
    Ok(Path::new(root.trim())
        .join("lib/rustlib")
        .join(host_triple()?)
        .join("bin"))
}

fn compiler() -> PathBuf {
    env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

fn about_compiler(what: &str) -> Result<String> {
    let version = process::output(Command::new(compiler()).arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix(what));
    Ok(line
        .with_context(|| format!("`rustc -vV` names no {what:?}"))?
        .to_owned())
}

/// Returns the folder with the binaries of a profile: `release`, or `debug` for cargo's `dev`.
///
/// # Errors
/// When cargo does not tell where its target folder is.
pub(crate) fn binaries(profile: &str) -> Result<PathBuf> {
    Ok(target()?.join(if profile == "dev" { "debug" } else { profile }))
}

/// Returns cargo's target folder.
///
/// # Errors
/// When cargo does not tell where it is.
pub(crate) fn target() -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(workspace_root()?);
    let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut command)?)?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target))
}
