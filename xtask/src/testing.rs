//! `make test` and `make coverage`: every test once, under coverage where the tools for it can be had.

mod build;
mod coverage;
mod summary;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{demo, environment, process, tools};
use build::Build;
use coverage::Coverage;
use summary::Summary;

/// Runs every test. Coverage is counted and held where its tools can be had; where not, that is said and the tests run plainly.
///
/// # Errors
/// When something does not build, a test fails, or too few lines are run by tests.
pub(crate) fn test(requirements: &Path) -> Result<()> {
    match Coverage::find() {
        Ok(coverage) => under_coverage(&coverage, requirements),
        Err(error) => {
            eprintln!("test: coverage is not counted: {error:#}");
            let build = Build::plain()?;
            ending(&everything(&build, requirements)?)
        }
    }
}

/// Runs every test under coverage.
///
/// # Errors
/// As [`test`], and when the tools of coverage cannot be had.
pub(crate) fn cover(requirements: &Path) -> Result<()> {
    under_coverage(&Coverage::find()?, requirements)
}

fn under_coverage(coverage: &Coverage, requirements: &Path) -> Result<()> {
    let build = coverage.build()?;
    coverage.forget(&build)?;
    let summary = everything(&build, requirements)?;
    // Counts of a run with failures are less than they could be: the failures come first.
    let held = if summary.failed == 0 {
        coverage.report(&build)
    } else {
        Ok(())
    };
    ending(&summary).and(held)
}

/// Builds the programs, gets what tests need, and runs the tests.
fn everything(build: &Build, requirements: &Path) -> Result<Summary> {
    process::run(build.cargo().args(["build", "--workspace", "--bins"]))?;
    demo::pull_model_with(&build.folder().join("kr"))?;
    let tools = tools::of_tests(requirements)?;
    let nextest = process::succeeds(Command::new(environment::cargo()).args(["nextest", "--version"]));
    let mut tests = build.cargo();
    tests.env("KR_TOOLS", tools);
    if nextest {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast"]);
    }
    let summary = Summary::of_run(&mut tests)?;
    if summary.passed == 0 {
        bail!("no test passed");
    }
    Ok(summary)
}

/// Prints the closing line.
fn ending(summary: &Summary) -> Result<()> {
    writeln!(
        std::io::stdout(),
        "{} passed, {} failed",
        summary.passed,
        summary.failed
    )?;
    if summary.failed > 0 {
        bail!("{} tests failed", summary.failed);
    }
    Ok(())
}
