//! What a shell and `man` want to know about this program: completions and pages, made from the same description as `--help`.

use std::fs;
use std::path::PathBuf;

use clap_complete::Shell;

use crate::answer;
use crate::error::Error;

/// A shell that completes commands.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Completing {
    Bash,
    Zsh,
    Fish,
}

/// Prints a script that completes kr's commands and flags.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn completions(shell: Completing, mut command: clap::Command) -> Result<(), Error> {
    let shell = match shell {
        Completing::Bash => Shell::Bash,
        Completing::Zsh => Shell::Zsh,
        Completing::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kr", &mut script);
    Ok(answer::print(&String::from_utf8_lossy(&script))?)
}

/// Writes a manual page for each command into `folder`, made if it is not there.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn manual(folder: PathBuf, command: clap::Command) -> Result<(), Error> {
    let made = fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(command, &folder));
    made.map_err(|source| Error::File { path: folder, source })
}
