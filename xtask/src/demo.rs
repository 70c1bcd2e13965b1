//! The demo of the README: a router and its worker on loopback, one streamed answer, a clean stop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::service::{Service, ServiceOptions};
use crate::{environment, process};

/// The model that demo and tests run, as `kr model pull` names its folder.
const MODEL: &str = "SmolLM2-135M-Instruct";

/// Loading and warming up takes seconds; a machine that needs longer than this has another problem.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Fetches and imports the demo model with the release's `kr`; see [`pull_model_with`].
///
/// # Errors
/// When `kr` is not built or fails.
pub(crate) fn pull_model() -> Result<()> {
    pull_model_with(&environment::binaries("release")?.join("kr"))
}

/// Fetches and imports the demo model with `kr model pull demo`, which does nothing when the model is there.
///
/// # Errors
/// When this `kr` is not built or fails.
pub(crate) fn pull_model_with(kr: &Path) -> Result<()> {
    process::run(Command::new(kr).args(["model", "pull", "demo"]).stdout(Stdio::null()))
        .context("cannot get the demo model (is `kr` built?)")
}

/// Answers one prompt on the terminal.
///
/// # Errors
/// When a step fails; the end of the service's log is shown if it was the service.
pub(crate) fn run(prompt: &str) -> Result<()> {
    let service = start("demo")?;
    let mut generate = kr("generate", &service)?;
    // Greedy, so that the same question gets the same answer; a prompt may begin with a dash.
    generate.args(["--chat", "--temperature", "0", "--", prompt]);
    ending(service, &mut generate)
}

/// Becomes `kr-router` in the foreground, serving the demo model unless the arguments name a model or a configuration.
///
/// # Errors
/// When the model cannot be fetched or the router cannot be started; on success it does not return.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let mut router = Command::new(environment::binaries("release")?.join("kr-router"));
    let names_model = |argument: &String| {
        let flag = argument.split('=').next().unwrap_or_default();
        ["--model", "--config", "--help", "--version"].contains(&flag)
    };
    if !arguments.iter().any(names_model) {
        pull_model()?;
        router.arg("--model").arg(default_model_folder()?);
    }
    let error = std::os::unix::process::CommandExt::exec(router.args(arguments));
    Err(error).context("cannot start kr-router")
}

/// A command of `kr` that talks to the service.
///
/// # Errors
/// When cargo does not tell where the binaries are.
pub(crate) fn kr(command: &str, service: &Service) -> Result<Command> {
    let mut kr = Command::new(environment::binaries("release")?.join("kr"));
    kr.arg(command)
        .arg("--server")
        .arg(format!("http://{}", service.grpc()));
    Ok(kr)
}

/// Runs a command and stops the service after it, whatever came out.
fn ending(service: Service, command: &mut Command) -> Result<()> {
    let ran = process::run(command);
    let stopped = service.stop();
    ran.and(stopped)
}

/// Starts a router with one worker on the demo model; `purpose` names the folder of its log.
///
/// # Errors
/// When the model cannot be fetched or the router does not come to serve.
fn start(purpose: &str) -> Result<Service> {
    pull_model()?;
    let binaries = environment::binaries("release")?;
    let folder = binaries.with_file_name(purpose);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    eprintln!(
        "{purpose}: starting kr-router and a worker on loopback (log: {})",
        folder.join("router.log").display()
    );
    Service::start(&ServiceOptions {
        router: &binaries.join("kr-router"),
        arguments: &[
            "--model".into(),
            default_model_folder()?.into(),
            "--workers".into(),
            "1".into(),
        ],
        variables: &[],
        folder: &folder,
        start_limit: START_LIMIT,
    })
}

/// Returns the form of the demo model that is the fastest on the machine: 4 bits a weight, except with MLX for CUDA, whose
/// quantised products are not trusted yet.
fn default_model_folder() -> Result<PathBuf> {
    match crate::mlx::is_for_cuda()? {
        true => model_folder(),
        false => quantized_model_folder(),
    }
}

/// Returns where `kr model pull demo` puts the float32 model.
///
/// # Errors
/// When there is no cache folder.
pub(crate) fn model_folder() -> Result<PathBuf> {
    Ok(environment::cache()?.join("models").join(MODEL))
}

/// Returns where `kr model pull demo` puts the 4-bit model.
///
/// # Errors
/// As [`model_folder`].
pub(crate) fn quantized_model_folder() -> Result<PathBuf> {
    Ok(environment::cache()?.join("models").join(format!("{MODEL}-4bit")))
}

/// Returns the GGUF file that `kr model pull demo` made both models of.
///
/// # Errors
/// As [`model_folder`].
pub(crate) fn gguf() -> Result<PathBuf> {
    Ok(environment::cache()?
        .join("downloads")
        .join(format!("{MODEL}.Q4_1.gguf")))
}
