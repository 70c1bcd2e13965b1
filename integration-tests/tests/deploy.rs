//! What is in `deploy/` is valid, as far as that can be told without a container engine.

use kr_integration_tests::{run, tool, workspace};
use serde_json::Value;
use tokio::process::Command;

fn deploy() -> Command {
    let mut command = Command::new("env");
    command.current_dir(workspace().join("deploy"));
    command
}

#[tokio::test]
async fn the_compose_file_is_valid_and_mounts_what_exists() {
    let configuration = run(deploy()
        .arg(tool("docker-compose"))
        .args(["config", "--format", "json"]))
    .await;
    let configuration: Value = serde_json::from_str(&configuration.success()).unwrap();
    let services = configuration["services"].as_object().unwrap();
    for name in ["router", "collector", "prometheus", "grafana"] {
        let service = services.get(name).unwrap_or_else(|| panic!("no service {name}"));
        let ports = service["ports"].as_array().cloned().unwrap_or_default();
        assert!(
            ports.iter().all(|port| port["host_ip"] == "127.0.0.1"),
            "{name} is open to others: {ports:?}"
        );
        let mounts = service["volumes"].as_array().cloned().unwrap_or_default();
        let mut sources = mounts
            .iter()
            .filter(|mount| mount["type"] == "bind")
            .filter_map(|mount| mount["source"].as_str());
        let missing = sources
            .find(|source| source.starts_with(workspace().to_str().unwrap()) && !std::fs::exists(source).unwrap());
        assert_eq!(missing, None, "{name} mounts it");
    }
}

#[tokio::test]
async fn the_dockerfile_satisfies_hadolint() {
    let said = run(deploy().arg(tool("hadolint")).arg("Dockerfile")).await.success();
    assert_eq!(said, "");
}

#[tokio::test]
async fn the_prometheus_configuration_satisfies_promtool() {
    let said = run(deploy()
        .arg(tool("promtool"))
        .args(["check", "config", "prometheus.yml"]))
    .await
    .success();
    assert!(said.contains("SUCCESS"), "{said}");
}
