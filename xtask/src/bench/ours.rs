//! Our own service under load: kr-router and kr-worker as processes, `kr bench` as their client over gRPC.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Measurement, Run};
use super::load::{LONG_TOKENS, Load, QUESTIONS, SHORT_TOKENS, TIMED_PROMPTS, records};
use crate::service::{Service, ServiceOptions};
use crate::{demo, environment, process};

/// Loading and warming up takes seconds; a machine that needs longer than this has another problem.
const START_LIMIT: Duration = Duration::from_secs(180);
const QUESTION_TOKENS: &str = "8";
const WARM_UP_TOKENS: u32 = 4;

/// Which form of the demo model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Float32,
    Quantized,
}

impl Model {
    fn folder(self) -> Result<PathBuf> {
        match self {
            Self::Float32 => demo::model_folder(),
            Self::Quantized => demo::quantized_model_folder(),
        }
    }
}

/// What `kr bench` is told of numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench {
    pub(super) concurrency: u32,
    pub(super) requests: u32,
    pub(super) prompt_tokens: u32,
    pub(super) max_tokens: u32,
}

/// A service of ours with one worker.
pub(super) struct Running(Service);

impl Running {
    /// Starts a router and a worker of so many threads; `settings` are environment variables beside.
    ///
    /// # Errors
    /// When the model cannot be fetched or the service does not come to serve.
    pub(super) fn start(model: &Model, threads: usize, settings: &[(&str, String)]) -> Result<Self> {
        demo::pull_model()?;
        let binaries = environment::binaries("release")?;
        let folder = binaries.with_file_name("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut variables = vec![
            ("KR_ROUTER__WORKER__THREADS", threads.to_string()),
            ("KR_ROUTER__DRAIN__DELAY", "10ms".to_owned()),
        ];
        variables.extend(settings.iter().cloned());
        let arguments: [OsString; 4] = ["--model".into(), model.folder()?.into(), "--workers".into(), "1".into()];
        let service = Service::start(&ServiceOptions {
            router: &binaries.join("kr-router"),
            arguments: &arguments,
            variables: &variables,
            folder: &folder,
            start_limit: START_LIMIT,
        })?;
        Ok(Self(service))
    }

    /// Puts a load on it, every answer as long as allowed, and returns the figures.
    ///
    /// # Errors
    /// When a request fails.
    pub(super) fn bench(&self, bench: &Bench, more: &[&str]) -> Result<Value> {
        let mut command = demo::kr("bench", &self.0)?;
        command.args(["--json", "--ignore-eos"]);
        let numbers = [
            ("--concurrency", bench.concurrency),
            ("--requests", bench.requests),
            ("--prompt-tokens", bench.prompt_tokens),
            ("--max-tokens", bench.max_tokens),
        ];
        for (flag, number) in numbers {
            command.arg(flag).arg(number.to_string());
        }
        let printed = process::output(command.args(more))?;
        serde_json::from_str(&printed).with_context(|| format!("no figures in {printed:?}"))
    }

    fn ask(&self, question: &str) -> Result<String> {
        let mut command = demo::kr("generate", &self.0)?;
        process::output(command.args(["--temperature", "0", "--max-tokens", QUESTION_TOKENS, "--", question]))
    }

    /// Stops it as an operator does.
    ///
    /// # Errors
    /// When it does not stop.
    pub(super) fn stop(self) -> Result<()> {
        self.0.stop()
    }
}

/// Measures one round on a fresh service.
///
/// # Errors
/// When the service cannot be started or a request fails.
pub(super) fn measure(model: &Model, load: &Load) -> Result<Measurement> {
    let service = Running::start(model, load.threads, &[])?;
    let mut answers = Vec::new();
    for (question, _) in QUESTIONS {
        answers.push(service.ask(question)?);
    }
    let file = environment::binaries("release")?
        .with_file_name("bench")
        .join("answers.jsonl");
    let mut runs = Vec::new();
    for concurrency in &load.concurrency {
        let bench = load.decode(*concurrency);
        let warm_up = Bench {
            max_tokens: WARM_UP_TOKENS,
            ..bench
        };
        service.bench(&warm_up, &[])?;
        let figures = service.bench(&bench, &["--record", &file.to_string_lossy()])?;
        runs.push(Run {
            concurrency: *concurrency,
            tokens_per_s: number(&figures["decode_tokens_per_s"])?,
            answers: records(&file)?
                .into_iter()
                .map(|mut record| ids(record["token_ids"].take()))
                .collect(),
        });
    }
    let first_token = |prompt_tokens| {
        let bench = Bench {
            concurrency: 1,
            requests: TIMED_PROMPTS,
            prompt_tokens,
            max_tokens: 1,
        };
        number(&service.bench(&bench, &[])?["ttft_ms"]["p50"])
    };
    let (short_ms, long_ms) = (first_token(SHORT_TOKENS)?, first_token(LONG_TOKENS)?);
    let memory = service.0.memory()?;
    service.stop()?;
    Ok(Measurement {
        runs,
        short_ms,
        long_ms,
        peak_rss_mb: memory.peak_rss_mb,
        pss_mb: memory.pss_mb,
        answers,
    })
}

/// Runs `kr bench` with the user's own arguments against a service of its own.
///
/// # Errors
/// When the service cannot be started, or the command fails.
pub(crate) fn passing_on(arguments: &[String]) -> Result<()> {
    let service = Running::start(&Model::Float32, super::cores(), &[])?;
    let mut bench = demo::kr("bench", &service.0)?;
    bench
        .arg("--http")
        .arg(format!("http://{}", service.0.http()))
        .args(arguments);
    let ran = process::run(&mut bench);
    let stopped = service.stop();
    ran.and(stopped)
}

pub(super) fn number(value: &Value) -> Result<f64> {
    let Some(number) = value.as_f64() else {
        bail!("a figure is missing: {value}");
    };
    Ok(number)
}

/// Token ids of a JSON array; what is none is left out, and missed by the check of lengths.
pub(super) fn ids(value: Value) -> Vec<u64> {
    serde_json::from_value(value).unwrap_or_default()
}
