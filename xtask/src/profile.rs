//! `make profile`: where a step's time goes, for the demo model in float32 and in 4 bits.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{demo, environment, process};

/// Profiles the models of the folders given, else both forms of the demo model, which is fetched where it is missing.
///
/// # Errors
/// When the model cannot be fetched, or a model cannot be loaded.
pub(crate) fn run(folders: &[PathBuf]) -> Result<()> {
    let folders = match folders {
        [] => demo_models()?,
        folders => folders.to_vec(),
    };
    let mut cargo = Command::new(environment::cargo());
    cargo.args(["run", "--release", "--quiet", "--package", "kr-model"]);
    process::run(cargo.args(["--example", "profile", "--"]).args(folders))
}

fn demo_models() -> Result<Vec<PathBuf>> {
    demo::pull_model()?;
    let float = demo::model_folder()?;
    let mut packed = float.clone().into_os_string();
    packed.push("-4bit");
    Ok(vec![float, packed.into()])
}
