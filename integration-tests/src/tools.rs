//! Where the real model and other people's tools are.

use std::path::{Path, PathBuf};

/// Returns the folder of the demo model in the cache: `SmolLM2-135M-Instruct`, or with `-4bit` behind it.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn real_model(name: &str) -> PathBuf {
    let folder = kr_boot::models_folder().join(name);
    assert!(
        folder.join("config.json").exists(),
        "{} is missing: run `kr model pull demo`",
        folder.display()
    );
    folder
}

/// Returns the GGUF file that the demo model was made of.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn demo_gguf() -> PathBuf {
    let file = kr_boot::cache_folder().join("downloads/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(file.exists(), "{} is missing: run `kr model pull demo`", file.display());
    file
}

/// Returns a program of the tests' virtual environment (`cargo xtask tools` makes it; `make test` sets `KR_TOOLS`).
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = environment().join("bin").join(name);
    assert!(
        path.exists(),
        "{} is missing; on Debian, `make test` gets it; elsewhere install {name}",
        path.display()
    );
    path
}

/// Returns the collector's program, which is not among the environment's commands.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn rotel() -> PathBuf {
    let versions = environment()
        .join("lib")
        .read_dir()
        .expect("a virtual environment has a lib folder");
    let mut versions = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let agent = versions.find_map(|version| {
        let agent = version.join("site-packages/rotel/rotel-agent");
        agent.exists().then_some(agent)
    });
    agent.expect("the package rotel is in the virtual environment")
}

fn environment() -> PathBuf {
    let folder = std::env::var_os("KR_TOOLS").map(PathBuf::from);
    folder.expect("KR_TOOLS is not set: run the tests with `make test`, or export KR_TOOLS=$(cargo xtask tools)")
}

/// Returns the root of the repository.
///
/// # Panics
/// Never: this crate lies in a folder of it.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in a folder of the workspace")
}

/// Returns a port of loopback that is free now, for programs that cannot say which one they took.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Returns a script of `integration-tests/clients`.
#[must_use]
pub fn client_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}
