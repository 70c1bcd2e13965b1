//! Links MLX's shared library and, on Linux, OpenBLAS in front of the slow reference BLAS that MLX's wheel brings.
//!
//! `rustc-link-arg` reaches only this package's own tests, so the arguments are also handed to dependents: a crate that
//! links `kr-model` into an executable repeats them from `DEP_KR_MODEL_LINK_ARGS` in its build script.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by the links override that `cargo xtask mlx` writes; upstream's own build (macOS) links everything itself.
    let Some(lib) = env::var_os("DEP_MLX_LIB") else {
        println!("cargo::metadata=link-args=");
        return;
    };
    let rpath = format!("-Wl,-rpath,{}", lib.display());
    // A CUDA build of MLX needs the card's driver, which the machine that links may lack.
    let arguments = [
        "-Wl,--no-as-needed,-lopenblas,--as-needed",
        "-Wl,--allow-shlib-undefined",
        &rpath,
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg={argument}");
    }
    println!("cargo::metadata=link-args={}", arguments.join(" "));
}
