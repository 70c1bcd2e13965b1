//! The guides' commands that need kr-router or grpcurl; the others are run where `kr` is tested.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use kr_integration_tests::{Ran, Service, program, run, tool, workspace};
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

/// The lines of the `sh` blocks of a guide that begin with `start`, continued ones joined, without comments.
fn lines(guide: &str, start: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join(guide)).unwrap();
    let text = text.replace("\\\n", " ").replace("target/release/", "");
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap().lines());
    let lines = lines.filter(|line| line.starts_with(start));
    lines
        .map(|line| line.split("  #").next().unwrap().trim().to_owned())
        .collect()
}

#[tokio::test]
async fn every_configuration_that_a_guide_shows_is_valid() {
    for guide in ["README.md", "docs/getting-started.md", "docs/cli.md"] {
        for line in lines(guide, "kr config") {
            let _ = sh(&line).await.success();
        }
    }
    let mut servers = lines("docs/getting-started.md", "kr-router");
    // The reader's own model is any model.
    let own = lines("README.md", "kr-router").into_iter();
    servers.extend(own.map(|line| line.replace("my-model", "SmolLM2-135M-Instruct")));
    assert_eq!(servers.len(), 3);
    for line in servers {
        assert!(
            sh(&format!("{line} --check-config")).await.success().contains("valid"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_the_readme_calls_with_grpcurl_is_answered() {
    let service = Service::fake(1, "step_ms=1").start().await;
    let commands = lines("README.md", "grpcurl");
    assert_eq!(commands.len(), 2);
    for command in commands {
        let command = command.replace("127.0.0.1:50051", service.grpc());
        let grpcurl = tool("grpcurl").display().to_string();
        let printed = sh(&command.replacen("grpcurl", &grpcurl, 1)).await.success();
        assert!(
            printed.contains("finish") || printed.contains("max_tokens"),
            "{command}: {printed}"
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
