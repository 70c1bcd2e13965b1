//! `kr model import`: a GGUF file becomes a model folder.

use std::path::{Path, PathBuf};

use kr_gguf::{ConvertOptions, Summary, Target};

use crate::answer;
use crate::error::Error;
use crate::terminal;

const BAR: &str = "{msg:10} {wide_bar} {bytes}/{total_bytes}";

/// Convert a GGUF file into a folder with safetensors, configuration, tokenizer and chat template.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The GGUF file; of a model split into several, the first (…-00001-of-0000N.gguf).
    file: PathBuf,
    /// The folder to make.
    dir: PathBuf,
    /// Type of the weights: float32, or quantized as the file has them.
    #[arg(long, default_value = "quantized")]
    dtype: Target,
    /// Replace the folder if it exists.
    #[arg(long)]
    overwrite: bool,
    /// Print a JSON object about the result.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The file is not a GGUF file that can be converted, or the folder cannot be written; nothing half-made is left.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let Args {
        file,
        dir,
        dtype,
        overwrite,
        json,
    } = args;
    let shown = dir.clone();
    let summary = tokio::task::spawn_blocking(move || convert(&file, &dir, dtype, overwrite))
        .await
        .map_err(|error| Error::Input(format!("the import stopped: {error}")))??;
    if json {
        let record = serde_json::json!({
            "dir": shown, "architecture": summary.architecture, "name": summary.name, "tensors": summary.tensors,
            "exact_tensors": summary.exact_tensors, "max_error": summary.max_error, "bytes": summary.bytes, "source_sha256": summary.source_sha256,
        });
        return Ok(answer::print(&format!("{record}\n"))?);
    }
    let (folder, megabytes) = (shown.display(), summary.bytes / 1_000_000);
    let about = match summary.tensors - summary.exact_tensors {
        0 => "all exactly as in the file".to_owned(),
        inexact => format!(
            "{inexact} of them requantized, no value off by more than {:.1e} (`kr model inspect {folder}` says which)",
            summary.max_error
        ),
    };
    Ok(answer::print(&format!(
        "{folder}: {} tensors, {about}, {megabytes} MB\n",
        summary.tensors
    ))?)
}

/// Converts with a progress bar on the terminal.
pub(crate) fn convert(file: &Path, dir: &Path, target: Target, overwrite: bool) -> Result<Summary, Error> {
    let bar = terminal::progress_bar(0, BAR);
    let mut progress = |progress: kr_gguf::Progress| {
        bar.set_message(format!("{:?}", progress.stage).to_lowercase());
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    };
    let summary = kr_gguf::convert(
        file,
        dir,
        ConvertOptions {
            target,
            overwrite,
            progress: &mut progress,
        },
    )?;
    bar.finish_and_clear();
    Ok(summary)
}
