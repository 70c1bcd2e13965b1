//! A real OTLP collector of another project (rotel), which prints whatever it receives.

use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Program;
use crate::{eventually, free_port, rotel};

/// A running collector. It ends with its value.
#[derive(Debug)]
pub struct Collector {
    program: Program,
    port: u16,
    _folder: TempDir,
}

/// A span as the collector got it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process it came from.
    pub service: String,
    /// Its name.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// 16 hexadecimal digits, or nothing.
    pub parent_id: String,
}

impl Collector {
    /// Starts a collector and waits until it listens.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Starts a collector on a port where one was before.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub async fn start_on(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(rotel());
        command.args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed"]);
        command.args(["--debug-log", "traces", "--debug-log", "metrics", "--debug-log", "logs"]);
        command.args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{port}")]);
        command.args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", free_port())]);
        command.arg("--pid-file").arg(folder.path().join("pid"));
        command.arg("--log-file").arg(folder.path().join("log"));
        let program = Program::start(&mut command);
        eventually("the collector's port", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self {
            program,
            port,
            _folder: folder,
        }
    }

    /// Where to send OTLP/gRPC.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of [`Self::endpoint`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns everything it printed so far: spans, metrics and log records with all attributes.
    #[must_use]
    pub fn output(&self) -> String {
        self.program.output()
    }

    /// Returns the spans received so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        spans(&self.output())
    }

    /// Kills it.
    pub async fn kill(mut self) {
        self.program.signal("KILL");
        self.program.wait().await;
    }
}

/// Reads the spans out of what the collector printed.
fn spans(output: &str) -> Vec<Span> {
    let mut service = String::new();
    let mut found: Vec<Span> = Vec::new();
    let mut in_span = false;
    for line in output.lines() {
        if let Some(name) = line.trim().strip_prefix("-> service.name: Str(").filter(|_| !in_span) {
            service = name.trim_end_matches(')').to_owned();
        }
        if line.starts_with("Resource") {
            in_span = false;
        } else if line.starts_with("Span #") {
            in_span = true;
            let service = service.clone();
            found.push(Span {
                service,
                ..Span::default()
            });
        }
        let Some(span) = found.last_mut().filter(|_| in_span) else {
            continue;
        };
        let Some((label, value)) = line.strip_prefix("    ").and_then(|line| line.split_once(": ")) else {
            continue;
        };
        let field = match label.trim() {
            "Trace ID" => &mut span.trace_id,
            "Parent ID" => &mut span.parent_id,
            "ID" => &mut span.id,
            "Name" => &mut span.name,
            _ => continue,
        };
        value.trim().clone_into(field);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
ResourceSpans #0
Resource SchemaURL:
Resource attributes:
     -> service.name: Str(kr-router)
ScopeSpans #0
InstrumentationScope kr 0.1.0
Span #0
    Trace ID       : 5b8e
    Parent ID      :
    ID             : eee1
    Name           : chat demo
Attributes:
     -> service.name: Str(no resource)
Span #1
    Trace ID       : 5b8e
    Parent ID      : eee1
    ID             : eee2
    Name           : queued
ResourceLog #0
Resource attributes:
     -> service.name: Str(kr-worker)
LogRecord #0
    Trace ID       : 5b8e
";

    #[test]
    fn spans_are_read_with_their_service_and_parent() {
        let found = spans(OUTPUT);
        let names: Vec<_> = found
            .iter()
            .map(|span| (span.name.as_str(), span.service.as_str()))
            .collect();
        assert_eq!(names, [("chat demo", "kr-router"), ("queued", "kr-router")]);
        assert_eq!((found[0].parent_id.as_str(), found[1].parent_id.as_str()), ("", "eee1"));
        assert_eq!(found[1].trace_id, "5b8e");
    }
}
