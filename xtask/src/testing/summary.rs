//! How many tests passed, read from what the test runner prints while it is passed on.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Counts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Summary {
    pub(super) passed: u32,
    pub(super) failed: u32,
}

impl Summary {
    /// Runs a test runner, passes its output on as it comes, and counts.
    ///
    /// # Errors
    /// When it cannot be started, or fails though no test did: something did not build.
    pub(super) fn of_run(runner: &mut Command) -> Result<Self> {
        // nextest reports on standard error, libtest on standard output: one pipe takes both.
        let (output, input) = std::io::pipe().context("cannot make a pipe")?;
        runner.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        let mut child = runner.spawn().context("cannot start the tests")?;
        // The command holds the pipe's other end, which must be closed for its reader to come to an end.
        runner.stdout(Stdio::null()).stderr(Stdio::null());
        let mut summary = Self::default();
        let mut shown = std::io::stderr();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("cannot read what the tests print")?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            summary.count(&String::from_utf8_lossy(&line));
        }
        let status = child.wait()?;
        if !status.success() && summary.failed == 0 {
            bail!("the tests could not be run: {status}");
        }
        Ok(summary)
    }

    /// Adds the numbers of a closing line of libtest, `test result: ok. 8 passed; 1 failed; …`, of which each binary has one. That
    /// of nextest, `Summary […] 9 tests run: 8 passed, 1 failed, 0 skipped`, is for all, and replaces whatever a failed test had
    /// printed before it.
    fn count(&mut self, line: &str) {
        let line = line.trim_start();
        let counts = if let Some(rest) = line.strip_prefix("Summary [") {
            *self = Self::default();
            rest.split_once(" run: ").map(|(_, counts)| counts)
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            rest.split_once(". ").map(|(_, counts)| counts)
        } else {
            None
        };
        for part in counts.unwrap_or_default().split([',', ';']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|number| number.parse::<u32>().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed" | "timed" | "exec")) => self.failed += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> (u32, u32) {
        let mut summary = Summary::default();
        text.lines().for_each(|line| summary.count(line));
        (summary.passed, summary.failed)
    }

    #[test]
    fn the_closing_lines_of_both_runners_are_counted() {
        let nextest = "test result: FAILED. 0 passed; 1 failed;\nPASS [ 0.1s] x::y\n     Summary [  94.1s] 713 tests run: 711 passed (2 slow), 1 failed, 1 timed out, 0 skipped";
        assert_eq!(counted(nextest), (711, 2));
        let libtest = "test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured\n\
                       test result: FAILED. 2 passed; 3 failed; 0 ignored";
        assert_eq!(counted(libtest), (10, 3));
        assert_eq!(counted("running 3 tests, 2 passed so far"), (0, 0));
    }

    #[test]
    fn what_is_printed_on_either_stream_is_counted() {
        let script = "echo 'test result: ok. 2 passed; 0 failed;'; echo 'test result: ok. 1 passed; 0 failed;' >&2";
        let summary = Summary::of_run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(summary, Summary { passed: 3, failed: 0 });
    }

    #[test]
    fn a_run_that_failed_without_a_failed_test_is_an_error() {
        assert!(Summary::of_run(Command::new("sh").args(["-c", "exit 3"])).is_err());
        let failed = "echo 'test result: FAILED. 2 passed; 1 failed;'; exit 1";
        assert_eq!(
            Summary::of_run(Command::new("sh").args(["-c", failed])).unwrap().failed,
            1
        );
    }
}
