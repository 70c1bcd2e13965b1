//! A real Prometheus for the tests, unpacked from the distribution's package: no root, no daemon started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{environment, process, publish};

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Links `prometheus` and `promtool` into `bin`, from the system if it has them, else from its package.
///
/// # Errors
/// When there is neither; the tests that need it then fail.
pub(crate) fn link_into(bin: &Path) -> Result<()> {
    let unpacked = environment::cache()?.join("prometheus");
    for program in PROGRAMS {
        let link = bin.join(program);
        if link.exists() {
            continue;
        }
        let target = match environment::on_path(program) {
            Some(system) => system,
            None => unpack(&unpacked)?.join("usr/bin").join(program),
        };
        std::os::unix::fs::symlink(&target, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(())
}

fn unpack(folder: &Path) -> Result<std::path::PathBuf> {
    publish::once(folder, |draft| {
        eprintln!("tools: unpacking the distribution's prometheus package");
        process::output(
            Command::new("apt-get")
                .args(["download", "prometheus"])
                .current_dir(draft),
        )?;
        let entries = fs::read_dir(draft).with_context(|| format!("cannot list {}", draft.display()))?;
        let mut files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let Some(package) = files.find(|path| path.extension().is_some_and(|ending| ending == "deb")) else {
            bail!("apt-get downloaded no package");
        };
        process::output(Command::new("dpkg").arg("-x").arg(&package).arg(draft))?;
        fs::remove_file(&package).with_context(|| format!("cannot remove {}", package.display()))
    })
}
