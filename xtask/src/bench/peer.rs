//! Other engines, each in a Python process of its own and an environment in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Engine;
use super::figures::{Measurement, Run};
use super::load::Load;
use super::ours::{ids, number};
use crate::tools::{self, Contents};
use crate::{demo, environment, process};

const SCRIPTS: &str = "xtask/peers";

/// Installs what is measured beside ours.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn install() -> Result<()> {
    [Engine::MlxLm, Engine::LlamaCpp].into_iter().try_for_each(prepare)
}

/// Installs an engine; ours are built already.
///
/// # Errors
/// When Python, pip, a download or a compiler fails.
pub(super) fn prepare(engine: Engine) -> Result<()> {
    python(engine).map(|_| ())
}

/// The Python that has an engine; `None` for ours.
fn python(engine: Engine) -> Result<Option<PathBuf>> {
    let (requirements, sources) = match engine {
        Engine::KrFloat32 | Engine::Kr4Bit => return Ok(None),
        Engine::MlxLm => ("requirements.txt", None),
        Engine::LlamaCpp => ("requirements-llama-cpp.txt", Some("sources-llama-cpp.txt")),
    };
    let file = |name: &str| Path::new(SCRIPTS).join(name);
    let folder = tools::environment_of(&Contents {
        requirements: &file(requirements),
        sources: sources.map(file).as_deref(),
    })?;
    Ok(Some(folder.join("bin/python")))
}

/// Measures one round in a fresh process.
///
/// # Errors
/// When it fails or prints something else.
pub(super) fn measure(engine: Engine, load: &Load) -> Result<Measurement> {
    let (script, model) = match engine {
        Engine::LlamaCpp => ("llama_cpp_engine.py", demo::gguf()?),
        _ => ("mlx_lm_engine.py", demo::model_folder()?),
    };
    ensure!(
        model.exists(),
        "{} is missing; remove the demo models' folders and run `kr model pull demo` to get it again",
        model.display()
    );
    let python = python(engine)?.context("ours are no Python")?;
    let mut command = Command::new(python);
    command.arg(environment::workspace_root()?.join(SCRIPTS).join(script));
    command.arg("--model").arg(model).arg("--load").arg(&load.file);
    command.args(["--threads", &load.threads.to_string()]);
    command.args(["--max-tokens", &load.max_tokens.to_string(), "--concurrency"]);
    command.args(load.concurrency.iter().map(u32::to_string));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    for variable in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"] {
        command.env(variable, load.threads.to_string());
    }
    if cfg!(target_os = "linux") && engine == Engine::MlxLm {
        // The wheel's own BLAS would make it ten times slower: the peer gets the one that we link.
        command.env("LD_PRELOAD", "libopenblas.so.0");
    }
    let printed = process::output(&mut command)?;
    let line = printed.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(line).with_context(|| format!("no figures in {printed:?}"))?;
    read(said)
}

fn read(mut said: Value) -> Result<Measurement> {
    let runs = said["runs"].as_array_mut().context("no runs")?.iter_mut().map(|run| {
        let answers = run["answers"].as_array_mut().context("no answers")?;
        let answers = answers.iter_mut().map(|answer| ids(answer.take())).collect();
        Ok(Run {
            concurrency: u32::try_from(run["concurrency"].as_u64().context("no concurrency")?)?,
            tokens_per_s: number(&run["tokens_per_s"])?,
            answers,
        })
    });
    let runs = runs.collect::<Result<_>>()?;
    Ok(Measurement {
        runs,
        short_ms: number(&said["short_ms"])?,
        long_ms: number(&said["long_ms"])?,
        peak_rss_mb: number(&said["peak_rss_mb"])?,
        pss_mb: said["pss_mb"].as_f64(),
        answers: serde_json::from_value(said["answers"].take())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_prints_is_read() {
        let said = serde_json::json!({
            "runs": [{"concurrency": 2, "tokens_per_s": 7.5, "answers": [[1, 2], [3, 4]]}],
            "short_ms": 1.0, "long_ms": 2.0, "peak_rss_mb": 3.0, "pss_mb": null, "answers": ["Paris"],
        });
        let measurement = read(said).unwrap();
        assert_eq!(measurement.runs[0].answers, [[1, 2], [3, 4]]);
        assert_eq!((measurement.long_ms, measurement.pss_mb), (2.0, None));
        assert!(read(serde_json::json!({"runs": []})).is_err());
    }
}
