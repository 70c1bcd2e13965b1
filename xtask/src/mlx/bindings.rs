//! Rust declarations of mlx-c, as mlx-sys's own build script would make them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// mlx-c declares half-precision types on ARM only, and there as compiler types that Rust lacks; mlx-rs wants these two names and
/// four functions on every machine. Off ARM, `shared/model/native/half.cpp` defines the functions.
const HALF: &str = r#"
/// IEEE half precision, as bits.
#[repr(transparent)]
#[derive(Debug, Default, Copy, Clone)]
pub struct float16_t(pub u16);
/// bfloat16, as bits.
pub type bfloat16_t = u16;
unsafe extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}
"#;

/// Writes `bindings.rs` into `folder`.
///
/// # Errors
/// When libclang is not installed or does not understand the headers.
pub(crate) fn generate(mlx_c: &Path, folder: &Path) -> Result<()> {
    let headers = fs::read_dir(mlx_c.join("mlx/c")).context("the mlx-sys package has no mlx/c folder")?;
    let mut headers: Vec<_> = headers
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    headers.retain(|path| path.extension().is_some_and(|extension| extension == "h"));
    headers.sort();
    let builder = bindgen::Builder::default()
        .rust_target(
            "1.82"
                .parse()
                .map_err(|_| anyhow::anyhow!("bindgen does not know the Rust version"))?,
        )
        .clang_arg(format!("-I{}", mlx_c.display()))
        .blocklist_function("malloc|realloc|mlx_array_(item|data)_b?float16")
        .blocklist_type("b?float16_t")
        .headers(headers.iter().map(|header| header.to_string_lossy()));
    let bindings = builder
        .generate()
        .context("cannot generate bindings of mlx-c: install libclang-dev")?;
    let file = folder.join("bindings.rs");
    fs::write(&file, format!("{bindings}{HALF}")).with_context(|| format!("cannot write {}", file.display()))
}
