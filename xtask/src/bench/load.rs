//! What every engine is asked: the same prompts, as token ids, and as many tokens.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Settings;
use super::ours::{Bench, Model, Running};
use crate::environment;

/// Tokens of the prompts that are answered.
const PROMPT_TOKENS: u32 = 32;
/// Tokens of the prompts whose first token is timed.
pub(super) const SHORT_TOKENS: u32 = 128;
pub(super) const LONG_TOKENS: u32 = 512;
/// Prompts of each of these lengths in a round.
pub(super) const TIMED_PROMPTS: u32 = 3;
/// Tokens of the reference's answers.
const REFERENCE_TOKENS: u32 = 4;

/// Questions with the word that a sound engine's continuation holds.
pub(super) const QUESTIONS: [(&str, &str); 3] = [
    ("The capital of France is", "Paris"),
    ("One, two, three, four,", "five"),
    ("Monday, Tuesday, Wednesday,", "Thursday"),
];

/// The load, and how our float32 engine answers it.
pub(super) struct Load {
    pub(super) concurrency: Vec<u32>,
    pub(super) max_tokens: u32,
    pub(super) threads: usize,
    /// The prompts as JSON, for peers.
    pub(super) file: PathBuf,
    /// The first token that our float32 engine, alone in its batch or not, gives for each prompt.
    pub(super) reference: Vec<u64>,
}

impl Load {
    /// Lets a service of ours make the prompts and answer them once.
    ///
    /// # Errors
    /// When it cannot be started, or the file cannot be written.
    pub(super) fn make(settings: &Settings) -> Result<Self> {
        eprintln!("bench: making prompts");
        let folder = environment::binaries("release")?.with_file_name("bench");
        let service = Running::start(&Model::Float32, settings.threads(), &[])?;
        let most = settings.concurrency.iter().copied().max().unwrap_or(1);
        let ask = |name: &str, requests, prompt_tokens| {
            let file = folder.join(format!("{name}.jsonl"));
            let bench = Bench {
                concurrency: requests,
                requests,
                prompt_tokens,
                max_tokens: REFERENCE_TOKENS,
            };
            service.bench(&bench, &["--record", &file.to_string_lossy()])?;
            records(&file)
        };
        let decode = ask("decode", most, PROMPT_TOKENS)?;
        let load = json!({
            "decode": prompts(&decode),
            "short": prompts(&ask("short", TIMED_PROMPTS, SHORT_TOKENS)?),
            "long": prompts(&ask("long", TIMED_PROMPTS, LONG_TOKENS)?),
            "questions": QUESTIONS.map(|(question, _)| question),
        });
        service.stop()?;
        let file = folder.join("load.json");
        fs::write(&file, load.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self {
            concurrency: settings.concurrency.clone(),
            max_tokens: settings.max_tokens,
            threads: settings.threads(),
            file,
            reference: decode
                .iter()
                .filter_map(|answer| answer["token_ids"][0].as_u64())
                .collect(),
        })
    }

    /// What `kr bench` is told for so many prompts at once.
    pub(super) fn decode(&self, concurrency: u32) -> Bench {
        Bench {
            concurrency,
            requests: concurrency,
            prompt_tokens: PROMPT_TOKENS,
            max_tokens: self.max_tokens,
        }
    }
}

/// Reads what `kr bench --record` wrote.
///
/// # Errors
/// When it cannot be read or is no JSON.
pub(super) fn records(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn prompts(records: &[Value]) -> Vec<&Value> {
    records.iter().map(|record| &record["prompt_ids"]).collect()
}
