//! The guides' commands that need kr-router; the others are run where `kr` is tested.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use kr_integration_tests::{Ran, program, run, workspace};
use tokio::process::Command;

/// Runs a line of a guide in the repository's folder, with our programs in `PATH`.
async fn sh(line: &str) -> Ran {
    let programs = ["kr", "kr-router"].map(program);
    let path = format!("{}:{}", programs[0].parent().unwrap().display(), env!("PATH"));
    run(Command::new("sh")
        .args(["-c", line])
        .env("PATH", path)
        .current_dir(workspace()))
    .await
}

/// The lines of the `sh` blocks of a guide that begin with `start`.
fn lines(guide: &str, start: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join("docs").join(guide)).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap().lines());
    lines
        .filter(|line| line.starts_with(start))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_configuration_that_a_guide_shows_is_valid() {
    for guide in ["getting-started.md", "cli.md"] {
        for line in lines(guide, "kr config") {
            let _ = sh(&line).await.success();
        }
    }
    let servers = lines("getting-started.md", "kr-router");
    assert_eq!(servers.len(), 2);
    for line in servers {
        assert!(
            sh(&format!("{line} --check-config")).await.success().contains("valid"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn kr_config_names_the_key_that_was_meant() {
    let line = "KR_ROUTER__QUEUE__CAPASITY=3 kr config check --model SmolLM2-135M-Instruct";
    let ran = sh(line).await;
    assert_eq!(ran.status.code(), Some(64), "{}", ran.stderr);
    for part in ["queue.capasity", "KR_ROUTER__QUEUE__CAPASITY", "capacity"] {
        assert!(ran.stderr.contains(part), "no {part} in {}", ran.stderr);
    }
}
