//! Workers that this router starts: where they come from and what they are told.

use std::path::PathBuf;
use std::time::Duration;

use kr_boot::config::{Problem, Validate, duration};
use serde::{Deserialize, Serialize};

use super::checks::{at_least_one, more_than_nothing, shown};

/// Workers that this router starts. What is unset is the worker's own default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    /// The executable; by default `kr-worker` beside this one.
    pub(crate) binary: Option<PathBuf>,
    /// Sequences that a worker runs at once.
    pub(crate) max_sequences: Option<u32>,
    /// Memory of each for KV, its prefix cache included.
    pub(crate) kv_budget_bytes: Option<u64>,
    /// Longest sequence in tokens, below the model's own limit.
    pub(crate) max_context_tokens: Option<u32>,
    /// Input tokens of one step.
    pub(crate) max_step_tokens: Option<u32>,
    /// Threads that compute.
    pub(crate) threads: Option<u32>,
    /// Blocks of KV kept for requests that begin alike; 0: none.
    pub(crate) prefix_cache_blocks: Option<u32>,
    /// Times a sequence may lose its KV to older ones.
    pub(crate) max_preemptions: Option<u32>,
    /// How long a step may take while sequences decode; 0: no bound.
    pub(crate) decode_step_target: Option<Span>,
    /// Whether a few steps run before a worker is ready.
    pub(crate) warm_up: Option<bool>,
    /// Type of activations and KV: float32, bfloat16 or float16.
    pub(crate) dtype: Option<String>,
    /// Which kernels may be used: auto or mlx.
    pub(crate) kernels: Option<String>,
    /// What becomes of activations that meet quantised weights: int8 or float32.
    pub(crate) activations: Option<String>,
    /// Where what is measured of models and made from them is kept.
    pub(crate) cache_folder: Option<PathBuf>,
    /// How long loading may take.
    #[serde(with = "duration")]
    pub(crate) start_timeout: Duration,
    /// How long it may take to stop before it is killed.
    #[serde(with = "duration")]
    pub(crate) stop_timeout: Duration,
}

/// What some workers of a model are told instead of what `[worker]` says; the fields are those of [`WorkerConfig`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerSettings {
    pub(crate) max_sequences: Option<u32>,
    pub(crate) kv_budget_bytes: Option<u64>,
    pub(crate) max_context_tokens: Option<u32>,
    pub(crate) max_step_tokens: Option<u32>,
    pub(crate) threads: Option<u32>,
    pub(crate) prefix_cache_blocks: Option<u32>,
    pub(crate) max_preemptions: Option<u32>,
    pub(crate) decode_step_target: Option<Span>,
    pub(crate) warm_up: Option<bool>,
    pub(crate) dtype: Option<String>,
    pub(crate) kernels: Option<String>,
    pub(crate) activations: Option<String>,
    pub(crate) cache_folder: Option<PathBuf>,
}

/// A duration that may be unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Span(#[serde(with = "duration")] pub(crate) Duration);

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            binary: None,
            max_sequences: None,
            kv_budget_bytes: None,
            max_context_tokens: None,
            max_step_tokens: None,
            threads: None,
            prefix_cache_blocks: None,
            max_preemptions: None,
            decode_step_target: None,
            warm_up: None,
            dtype: None,
            kernels: None,
            activations: None,
            cache_folder: None,
            start_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

impl WorkerConfig {
    /// Returns what workers are told where `special`, their own settings, say nothing.
    pub(crate) fn settings(&self, special: WorkerSettings) -> WorkerSettings {
        WorkerSettings {
            max_sequences: special.max_sequences.or(self.max_sequences),
            kv_budget_bytes: special.kv_budget_bytes.or(self.kv_budget_bytes),
            max_context_tokens: special.max_context_tokens.or(self.max_context_tokens),
            max_step_tokens: special.max_step_tokens.or(self.max_step_tokens),
            threads: special.threads.or(self.threads),
            prefix_cache_blocks: special.prefix_cache_blocks.or(self.prefix_cache_blocks),
            max_preemptions: special.max_preemptions.or(self.max_preemptions),
            decode_step_target: special.decode_step_target.or(self.decode_step_target),
            warm_up: special.warm_up.or(self.warm_up),
            dtype: special.dtype.or_else(|| self.dtype.clone()),
            kernels: special.kernels.or_else(|| self.kernels.clone()),
            activations: special.activations.or_else(|| self.activations.clone()),
            cache_folder: special.cache_folder.or_else(|| self.cache_folder.clone()),
        }
    }
}

impl WorkerSettings {
    /// Returns the settings as the worker's configuration variables.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let target = self
            .decode_step_target
            .map(|Span(target)| format!("{}us", target.as_micros()));
        let settings = [
            ("LIMITS__MAX_SEQUENCES", number(self.max_sequences)),
            (
                "LIMITS__KV_BUDGET_BYTES",
                self.kv_budget_bytes.map(|bytes| bytes.to_string()),
            ),
            ("LIMITS__MAX_CONTEXT_TOKENS", number(self.max_context_tokens)),
            ("LIMITS__MAX_STEP_TOKENS", number(self.max_step_tokens)),
            ("THREADS", number(self.threads)),
            ("PREFIX_CACHE__BLOCKS", number(self.prefix_cache_blocks)),
            ("LIMITS__MAX_PREEMPTIONS", number(self.max_preemptions)),
            ("LIMITS__DECODE_STEP_TARGET", target),
            ("WARM_UP", self.warm_up.map(|warm_up| warm_up.to_string())),
            ("DTYPE", self.dtype.clone()),
            ("KERNELS", self.kernels.clone()),
            ("ACTIVATIONS", self.activations.clone()),
            (
                "CACHE_FOLDER",
                self.cache_folder.as_ref().map(|folder| folder.display().to_string()),
            ),
        ];
        let set = settings.into_iter().filter_map(|(key, value)| Some((key, value?)));
        set.map(|(key, value)| (format!("KR_WORKER__{key}"), value)).collect()
    }
}

impl Validate for WorkerConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = self.settings(WorkerSettings::default()).validate();
        problems.extend(more_than_nothing(&[
            ("start_timeout", self.start_timeout),
            ("stop_timeout", self.stop_timeout),
        ]));
        if let Some(binary) = &self.binary
            && !binary.is_file()
        {
            let cure = "set it to the kr-worker executable, or leave it out";
            problems.push(Problem::new("binary", shown(binary), "no such file", cure));
        }
        problems
    }
}

impl Validate for WorkerSettings {
    fn validate(&self) -> Vec<Problem> {
        let set = [
            ("max_sequences", self.max_sequences),
            ("max_context_tokens", self.max_context_tokens),
            ("max_step_tokens", self.max_step_tokens),
            ("threads", self.threads),
        ];
        let numbers = set.iter().filter_map(|(key, value)| Some((*key, (*value)? as usize)));
        let bytes = self
            .kv_budget_bytes
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let set: Vec<_> = numbers.chain(bytes.map(|bytes| ("kv_budget_bytes", bytes))).collect();
        let mut problems = at_least_one(&set);
        problems.extend(one_of(
            "dtype",
            self.dtype.as_deref(),
            &["float32", "bfloat16", "float16"],
        ));
        problems.extend(one_of("kernels", self.kernels.as_deref(), &["auto", "mlx"]));
        problems.extend(one_of("activations", self.activations.as_deref(), &["int8", "float32"]));
        problems
    }
}

fn one_of(key: &str, value: Option<&str>, names: &[&str]) -> Option<Problem> {
    let value = value.filter(|value| !names.contains(value))?;
    let cure = format!("set it to {}, or leave it out", names.join(" or "));
    Some(Problem::new(key, format!("{value:?}"), "unknown name", cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_own_settings_are_stronger_and_the_rest_is_everyones() {
        let config = WorkerConfig {
            max_sequences: Some(8),
            threads: Some(4),
            ..WorkerConfig::default()
        };
        let special = WorkerSettings {
            threads: Some(2),
            decode_step_target: Some(Span(Duration::from_millis(50))),
            warm_up: Some(false),
            ..WorkerSettings::default()
        };
        let pair = |key: &str, value: &str| (format!("KR_WORKER__{key}"), value.to_owned());
        assert_eq!(
            config.settings(special).variables(),
            [
                pair("LIMITS__MAX_SEQUENCES", "8"),
                pair("THREADS", "2"),
                pair("LIMITS__DECODE_STEP_TARGET", "50000us"),
                pair("WARM_UP", "false"),
            ]
        );
        assert_eq!(
            WorkerConfig::default().settings(WorkerSettings::default()).variables(),
            []
        );
    }

    #[test]
    fn names_that_no_worker_knows_are_refused() {
        let settings = WorkerSettings {
            dtype: Some("int4".to_owned()),
            kernels: Some("mlx".to_owned()),
            threads: Some(0),
            ..WorkerSettings::default()
        };
        let keys: Vec<_> = settings.validate().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["threads", "dtype"]);
    }
}
