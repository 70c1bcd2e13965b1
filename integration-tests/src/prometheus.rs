//! A real Prometheus that scrapes a service.

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::http::escaped;
use crate::process::Program;
use crate::{eventually, free_port, get, tool};

/// A running Prometheus. It ends with its value.
#[derive(Debug)]
pub struct Prometheus {
    program: Program,
    address: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` (`HOST:PORT`) twice a second as job `kr-router`, and waits for the first scrape.
    ///
    /// # Panics
    /// When it does not come to scrape.
    pub async fn scraping(target: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let configuration = folder.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n  - job_name: kr-router\n    \
             static_configs:\n      - targets: [\"{target}\"]\n"
        );
        std::fs::write(&configuration, text).expect("the configuration can be written");
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(tool("prometheus"));
        command.arg("--config.file").arg(&configuration);
        command.arg("--storage.tsdb.path").arg(folder.path().join("data"));
        command.args(["--web.listen-address", &address, "--log.level", "warn"]);
        let prometheus = Self {
            program: Program::start(&mut command),
            address,
            _folder: folder,
        };
        eventually("Prometheus's port", || async {
            tokio::net::TcpStream::connect(&prometheus.address).await.ok()
        })
        .await;
        eventually("the first scrape", || async {
            let up = prometheus.query("up == 1").await;
            (!up.is_empty()).then_some(())
        })
        .await;
        prometheus
    }

    /// Evaluates an expression now and returns the series of the result, each with `metric` and `value`. Empty while
    /// Prometheus is still starting.
    ///
    /// # Panics
    /// When Prometheus refuses the expression.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.api(&format!("query?query={}", escaped(expression))).await;
        assert_ne!(answer["status"], "error", "{expression}: {answer}");
        let result = answer["data"]["result"].as_array();
        result.cloned().unwrap_or_default()
    }

    /// Returns the names of all metrics it has.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metric_names(&self) -> Vec<String> {
        let answer = self.api("label/__name__/values").await;
        let names = answer["data"].as_array().expect("a list of names");
        names
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    }

    async fn api(&self, path: &str) -> Value {
        let (_, body) = get(&self.address, &format!("/api/v1/{path}")).await;
        // Before it is ready it answers in plain text.
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Returns what it printed.
    #[must_use]
    pub fn output(&self) -> String {
        self.program.output()
    }
}
