//! Lint of the protos and their compatibility with the main branch, by buf.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{environment, process, tools};

/// Branches that a change of the wires is compared with, the first that exists.
const MAIN: [&str; 2] = ["origin/main", "main"];

/// Runs `buf lint` and, where a main branch with protos exists, `buf breaking` against it.
///
/// # Errors
/// When buf cannot be installed or finds something.
pub(crate) fn check(requirements: &Path) -> Result<()> {
    let root = environment::workspace_root()?;
    let environment = tools::environment_of(&tools::Contents {
        requirements,
        sources: None,
    })?;
    let buf = || {
        let mut command = Command::new(environment.join("bin/buf"));
        command.current_dir(&root);
        command
    };
    process::run(buf().args(["lint", "proto"]))?;
    let has_protos = |branch: &str| {
        let tree = format!("{branch}:proto/kr");
        process::succeeds(
            Command::new("git")
                .args(["rev-parse", "--verify", "--quiet", &tree])
                .current_dir(&root),
        )
    };
    match MAIN.into_iter().find(|branch| has_protos(branch)) {
        Some(branch) => process::run(
            buf()
                .args(["breaking", "proto", "--against"])
                .arg(format!(".git#ref={branch},subdir=proto")),
        ),
        None => {
            eprintln!("protos: no main branch here, nothing to compare with");
            Ok(())
        }
    }
}
