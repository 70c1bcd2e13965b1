//! Where and how test binaries are built.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::environment;

/// A target folder, and the environment of each cargo that fills it.
pub(super) struct Build {
    pub(super) target: PathBuf,
    pub(super) variables: Vec<(OsString, OsString)>,
}

impl Build {
    /// The workspace's own target folder.
    ///
    /// # Errors
    /// When cargo does not tell where it is.
    pub(super) fn plain() -> Result<Self> {
        Ok(Self {
            target: environment::target()?,
            variables: Vec::new(),
        })
    }

    /// A cargo that builds there.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = Command::new(environment::cargo());
        cargo
            .env("CARGO_TARGET_DIR", &self.target)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        cargo
    }

    /// Where the programs are: tests look for them beside themselves.
    pub(super) fn folder(&self) -> PathBuf {
        self.target.join("debug")
    }
}
