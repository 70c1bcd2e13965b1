//! Coverage by cargo-llvm-cov: which lines some test ran, counted in the tests' own processes and in all that they start.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::build::Build;
use crate::{environment, process, publish};

const VERSION: &str = "0.9.1";
const LEFT_OUT: &str = "xtask/coverage.txt";
/// Fewest lines, in a hundred, that tests must run.
const LEAST_PERCENT: f64 = 80.0;

/// The tools, found or installed.
pub(super) struct Coverage {
    cargo_llvm_cov: PathBuf,
    /// `LLVM_COV` and `LLVM_PROFDATA`, of the compiler's own major version.
    llvm: [(&'static str, PathBuf); 2],
}

impl Coverage {
    /// Finds LLVM's tools and cargo-llvm-cov, which is installed into the cache if need be.
    ///
    /// # Errors
    /// When one cannot be had; the message names the cure.
    pub(super) fn find() -> Result<Self> {
        let llvm = [
            ("LLVM_COV", tool("llvm-cov")?),
            ("LLVM_PROFDATA", tool("llvm-profdata")?),
        ];
        let folder = environment::cache()?.join(format!("cargo-llvm-cov-{VERSION}"));
        let folder = publish::once(&folder, |draft| {
            eprintln!("coverage: installing cargo-llvm-cov {VERSION}");
            let mut cargo = Command::new(environment::cargo());
            cargo.args([
                "install",
                "cargo-llvm-cov",
                "--version",
                VERSION,
                "--locked",
                "--quiet",
                "--root",
            ]);
            process::run(cargo.arg(draft).env("CARGO_TARGET_DIR", draft.join("build")))?;
            fs::remove_dir_all(draft.join("build")).context("cannot remove what building it left")
        })?;
        Ok(Self {
            cargo_llvm_cov: folder.join("bin/cargo-llvm-cov"),
            llvm,
        })
    }

    /// A build whose programs count, in a target folder of their own.
    ///
    /// # Errors
    /// When cargo-llvm-cov does not tell how.
    pub(super) fn build(&self) -> Result<Build> {
        let target = environment::target()?.join("coverage");
        let mut build = Build {
            target,
            variables: Vec::new(),
        };
        let script = process::output(self.command(&build).args(["show-env", "--sh", "--no-cfg-coverage"]))?;
        build.variables = variables(&script)?;
        for (name, value) in &mut build.variables {
            if name == "LLVM_PROFILE_FILE" {
                *value = shared_files(&value.to_string_lossy()).into();
            }
        }
        // Incremental objects of instrumented crates take gigabytes.
        build.variables.push(("CARGO_INCREMENTAL".into(), "0".into()));
        Ok(build)
    }

    /// Drops the counts of earlier runs.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn forget(&self, build: &Build) -> Result<()> {
        fs::create_dir_all(&build.target).with_context(|| format!("cannot make {}", build.target.display()))?;
        for entry in fs::read_dir(&build.target)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "profraw") {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Writes `lcov.info` and an HTML report into the target folder and prints the figure.
    ///
    /// # Errors
    /// When no report can be made, or tests run too few lines.
    pub(super) fn report(&self, build: &Build) -> Result<()> {
        let left_out = left_out()?;
        let report = || {
            let mut command = self.command(build);
            command.args(["report", "--ignore-filename-regex", &left_out]);
            command.envs(build.variables.iter().map(|(name, value)| (name, value)));
            command
        };
        let lcov = build.target.join("lcov.info");
        process::output(report().args(["--lcov", "--output-path"]).arg(&lcov))?;
        process::output(report().args(["--html", "--output-dir"]).arg(&build.target))?;
        let printed = process::output(report().args(["--json", "--summary-only"]))?;
        let summary: serde_json::Value = serde_json::from_str(&printed).context("the summary is no JSON")?;
        let lines = &summary["data"][0]["totals"]["lines"];
        let percent = lines["percent"].as_f64().context("the summary has no lines")?;
        eprintln!(
            "coverage: {percent:.2} % of {} lines; {} and {}",
            lines["count"],
            build.target.join("html/index.html").display(),
            lcov.display()
        );
        ensure!(
            percent >= LEAST_PERCENT,
            "tests run {percent:.2} % of the lines; at least {LEAST_PERCENT} % must be run: see the report"
        );
        Ok(())
    }

    fn command(&self, build: &Build) -> Command {
        let mut command = Command::new(&self.cargo_llvm_cov);
        command.arg("llvm-cov").env("CARGO_TARGET_DIR", &build.target);
        for (name, path) in &self.llvm {
            command.env(name, path);
        }
        command
    }
}

/// Returns one of LLVM's tools of the compiler's version: the distribution's, rustup's or Xcode's.
fn tool(name: &str) -> Result<PathBuf> {
    let major = environment::llvm_version()?;
    let versioned = format!("{name}-{major}");
    if let Some(path) = environment::on_path(&versioned) {
        return Ok(path);
    }
    let component = environment::compiler_tools()?.join(name);
    if component.is_file() {
        return Ok(component);
    }
    if cfg!(target_os = "macos") {
        let path = process::output(Command::new("xcrun").args(["--find", name]))?;
        return Ok(path.trim().into());
    }
    bail!("there is no {versioned}; install the package llvm-{major}, or run `rustup component add llvm-tools`")
}

/// Reads `export NAME='VALUE'` lines; a quote within is written `'\''`.
fn variables(script: &str) -> Result<Vec<(OsString, OsString)>> {
    let assignment = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        let bare = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        let value = bare.map_or(value.to_owned(), |bare| bare.replace(r"'\''", "'"));
        Some((name.into(), value.into()))
    };
    let found: Vec<_> = script.lines().filter_map(assignment).collect();
    ensure!(
        found.iter().any(|(name, _)| name == "LLVM_PROFILE_FILE"),
        "cargo-llvm-cov said something else: {script}"
    );
    Ok(found)
}

/// Lets the processes of a binary add to eight files in turn: one for each process, `%p`, would be gigabytes over all tests.
fn shared_files(pattern: &str) -> String {
    match pattern.split_once("%p") {
        Some((start, _)) => format!("{start}%8m.profraw"),
        None => pattern.to_owned(),
    }
}

/// The files that are not counted, as one regular expression.
fn left_out() -> Result<String> {
    let file = environment::workspace_root()?.join(LEFT_OUT);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(alternatives(&text))
}

fn alternatives(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let expressions: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    expressions.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_variables_are_read_with_their_quotes() {
        let script = "export LLVM_PROFILE_FILE='/a b/%p.profraw'\nexport PLAIN=1\nexport ODD='it'\\''s'\nnothing\n";
        let found = variables(script).unwrap();
        let expected = [
            ("LLVM_PROFILE_FILE", "/a b/%p.profraw"),
            ("PLAIN", "1"),
            ("ODD", "it's"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), value.into())));
        assert!(variables("echo no").is_err());
    }

    #[test]
    fn processes_share_files() {
        assert_eq!(shared_files("/t/main-%p-%2m.profraw"), "/t/main-%8m.profraw");
        assert_eq!(shared_files("/t/%m.profraw"), "/t/%m.profraw");
    }

    #[test]
    fn the_list_of_files_is_one_expression() {
        assert_eq!(alternatives("# why\n/a/\n\n  /b\\.rs$ \n"), r"/a/|/b\.rs$");
    }
}
