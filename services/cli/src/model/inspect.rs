//! `kr model inspect`: what a GGUF file or a model folder holds, tensor by tensor.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use kr_gguf::{Inspection, TensorSummary};

use crate::answer;
use crate::error::Error;

/// Show architecture, tokenizer, quantization, provenance and every tensor of a GGUF file or a model folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A GGUF file (of a split one the first), a model folder, or the name of one in the model cache.
    path: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The path is neither, or a file of it is damaged.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let inspection = tokio::task::spawn_blocking(move || kr_gguf::inspect(&kr_boot::model_folder(&args.path)))
        .await
        .map_err(|error| Error::Input(format!("the inspection stopped: {error}")))??;
    let text = if args.json {
        let json = serde_json::to_string(&inspection);
        format!("{}\n", json.map_err(|error| Error::Output(error.into()))?)
    } else {
        render(&inspection)
    };
    Ok(answer::print(&text)?)
}

fn render(inspection: &Inspection) -> String {
    let mut text = String::new();
    let about = about(inspection);
    let names = about
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    for (name, value) in about {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:names$}  {}", one_line(&name), one_line(&value));
    }
    let rows: Vec<_> = inspection.tensors.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    text.push('\n');
    for [name, kind, shape, link, exactness] in &rows {
        let [names, kinds, shapes, links] = widths;
        let line = format!("{name:names$}  {kind:kinds$}  {shape:shapes$}  {link:links$}  {exactness}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn about(inspection: &Inspection) -> Vec<(String, String)> {
    let mut about = Vec::new();
    let mut say = |name: &str, value: String| about.push((name.to_owned(), value));
    for file in &inspection.files {
        say(
            "file",
            format!("{} ({} MB, {})", file.name, file.bytes / 1_000_000, inspection.format),
        );
    }
    if let Some(architecture) = &inspection.architecture {
        say("architecture", architecture.clone());
    }
    if let Some(tokens) = inspection.context_tokens {
        say("context", format!("{tokens} tokens"));
    }
    if let Some(tokenizer) = &inspection.tokenizer {
        let template = if tokenizer.chat_template { "a" } else { "no" };
        say(
            "tokenizer",
            format!(
                "{}, {} tokens, {template} chat template",
                tokenizer.kind, tokenizer.tokens
            ),
        );
    }
    say("weights", types(&inspection.tensors));
    say("import", exactness(inspection));
    for (key, value) in &inspection.provenance {
        say(key, value.clone());
    }
    about
}

/// How many tensors there are of each type.
fn types(tensors: &[TensorSummary]) -> String {
    let mut counts = BTreeMap::<_, usize>::new();
    for tensor in tensors {
        *counts.entry(tensor.type_name.as_str()).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    counts.join("; ")
}

fn exactness(inspection: &Inspection) -> String {
    if let Some(problem) = &inspection.problem {
        return format!("not possible: {problem}");
    }
    let known: Vec<_> = inspection
        .tensors
        .iter()
        .filter_map(|tensor| tensor.counterpart.as_ref())
        .collect();
    let errors: Vec<_> = known.iter().filter_map(|known| known.error).collect();
    match (known.len(), errors.len()) {
        (0, _) => "none on record: these are the weights as they were published".to_owned(),
        (tensors, 0) => format!("all {tensors} tensors exact"),
        (tensors, inexact) => {
            let worst = errors.iter().map(|error| error.max_error).fold(0.0, f64::max);
            format!("{inexact} of {tensors} tensors requantized, no value off by more than {worst:.1e}")
        }
    }
}

fn row(tensor: &TensorSummary) -> [String; 5] {
    let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
    let (link, exactness) = match &tensor.counterpart {
        None => (String::new(), String::new()),
        Some(counterpart) => {
            let exactness = match counterpart.error {
                None => "exact".to_owned(),
                Some(error) => format!(
                    "off by at most {:.1e}, {:.1e} rms, where the largest is {:.1e}",
                    error.max_error, error.rms_error, error.largest_value
                ),
            };
            (format!("{} ({})", counterpart.name, counterpart.type_name), exactness)
        }
    };
    let name = one_line(&tensor.name);
    [
        name,
        tensor.type_name.clone(),
        shape.join(" × "),
        one_line(&link),
        exactness,
    ]
}

/// Text of a file without what could move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use kr_gguf::{Counterpart, RequantizationError, WeightFile};

    use super::*;

    fn inspection(error: Option<RequantizationError>) -> Inspection {
        Inspection {
            format: "GGUF",
            files: vec![WeightFile {
                name: "m.gguf".into(),
                bytes: 2_000_000,
            }],
            architecture: Some("llama".into()),
            context_tokens: None,
            tokenizer: None,
            quantization: None,
            provenance: [("name".to_owned(), "a\u{1b}[31mb".to_owned())].into(),
            problem: None,
            tensors: vec![TensorSummary {
                name: "a".into(),
                type_name: "Q6_K".into(),
                shape: vec![3, 256],
                bytes: 630,
                counterpart: Some(Counterpart {
                    name: "b".into(),
                    type_name: "affine".into(),
                    error,
                }),
            }],
        }
    }

    #[test]
    fn a_requantized_tensor_says_how_far_off_it_is() {
        let text = render(&inspection(Some(RequantizationError {
            max_error: 0.004,
            rms_error: 0.001,
            largest_value: 2.0,
        })));
        assert!(
            text.contains("1 of 1 tensors requantized, no value off by more than 4.0e-3"),
            "{text}"
        );
        assert!(text.ends_with(
            "a  Q6_K  3 × 256  b (affine)  off by at most 4.0e-3, 1.0e-3 rms, where the largest is 2.0e0\n"
        ));
    }

    #[test]
    fn text_of_the_file_cannot_move_the_cursor() {
        let text = render(&inspection(None));
        assert!(
            text.contains("all 1 tensors exact") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}
