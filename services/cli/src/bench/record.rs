//! The ids of a run, for those who compare engines.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use super::load::Outcome;
use crate::error::Error;

/// Writes a line for each answer, in the order of the requests: `{"request", "turn", "prompt_ids", "token_ids"}`.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(file: &Path, outcome: &Outcome) -> Result<(), Error> {
    let mut samples: Vec<_> = outcome.samples.iter().collect();
    samples.sort_by_key(|sample| (sample.request, sample.turn));
    let mut text = String::new();
    for sample in samples {
        let line = json!({
            "request": sample.request,
            "turn": sample.turn,
            "prompt_ids": sample.prompt_ids,
            "token_ids": sample.token_ids,
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    std::fs::write(file, text).map_err(|source| Error::File {
        path: file.to_owned(),
        source,
    })
}
