//! `.cargo/mlx.toml`: cargo's links override for mlx-sys, included by `.cargo/config.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What the override points to.
pub(crate) struct Paths<'a> {
    pub(crate) triple: &'a str,
    pub(crate) workspace: &'a Path,
    /// Static archives and `bindings.rs`.
    pub(crate) compiled: &'a Path,
    /// MLX's `lib` and `include`.
    pub(crate) mlx: &'a Path,
    pub(crate) mlx_c: &'a Path,
}

/// Writes the file unless it says the same already, and tells whether it was written.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(paths: &Paths<'_>) -> Result<bool> {
    let file = paths.workspace.join(".cargo/mlx.toml");
    let text = render(paths);
    if fs::read_to_string(&file).is_ok_and(|found| found == text) {
        return Ok(false);
    }
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

/// `lib` and `include` reach the build scripts of dependents as `DEP_MLX_LIB` and `DEP_MLX_INCLUDE`.
fn render(paths: &Paths<'_>) -> String {
    let compiled = paths.compiled.display();
    let (lib, mlx_include) = (paths.mlx.join("lib"), paths.mlx.join("include"));
    let (lib, mlx_include, mlx_c) = (lib.display(), mlx_include.display(), paths.mlx_c.display());
    let triple = paths.triple;
    format!(
        r#"# Written by `cargo xtask mlx`; do not edit.
[target.{triple}.mlx]
rustc-link-lib = ["static=mlxc", "static=kr_native", "dylib=mlx", "dylib=stdc++"]
rustc-link-search = ["native={compiled}", "native={lib}"]
rustc-env = {{ OUT_DIR = "{compiled}" }}
include = "{mlx_c}:{mlx_include}"
lib = "{lib}"
"#
    )
}
