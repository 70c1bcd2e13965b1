//! Repeats the link arguments of `kr-model`, which cargo does not pass on to executables by itself.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let arguments = env::var_os("DEP_KR_MODEL_LINK_ARGS").unwrap_or_default();
    for argument in arguments.to_string_lossy().split_whitespace() {
        println!("cargo::rustc-link-arg={argument}");
    }
}
