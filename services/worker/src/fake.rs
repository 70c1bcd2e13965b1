//! The fixed-step worker: a model without arrays that answers at a set pace. For benchmarks and tests of everything around a
//! model; its profile says architecture `fake`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use kr_contract::{Exactness, NumericsFingerprint};
use kr_engine::fake::{FakeFaults, FakeModelConfig, Pace, StepTime};
use serde::{Deserialize, Serialize};

use crate::profile::ModelFacts;

mod folder;

pub(crate) use folder::Error;

/// What the fake model is told: `step_ms=5,per_decode_us=20`. Unset keys have defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct FakeSpec {
    text: String,
    model: FakeModelConfig,
    load_time: Duration,
    fails_to_load: bool,
}

impl FakeSpec {
    /// Returns what to build the model from.
    pub(crate) fn model(&self) -> FakeModelConfig {
        self.model.clone()
    }

    /// Returns how long loading takes.
    pub(crate) fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Returns whether loading fails in the end.
    pub(crate) fn fails_to_load(&self) -> bool {
        self.fails_to_load
    }

    /// Returns what Hello says of the fake, and takes vocabulary, end token and tokenizer of the model in `folder`, so that a
    /// router can turn text to tokens and back.
    ///
    /// # Errors
    /// When the folder lacks one of them.
    pub(crate) fn facts(&mut self, folder: Option<&Path>) -> Result<ModelFacts, Error> {
        let folder = folder.map(folder::read).transpose()?.unwrap_or_default();
        if let Some(vocabulary) = folder.vocabulary_size {
            self.model.vocabulary = vocabulary;
        }
        if let Some(end_token) = folder.end_token {
            self.model.end_token = end_token;
        }
        Ok(ModelFacts {
            digest: "fake".to_owned(),
            tokenizer_digest: folder.tokenizer_digest.unwrap_or_default(),
            fingerprint: NumericsFingerprint {
                backend: "fake".to_owned(),
                dtype: "float32".to_owned(),
                kernel_set: "hash".to_owned(),
                threads: 1,
                class: Exactness::Invariant,
            },
            architecture: "fake".to_owned(),
            parameter_count: 0,
            weights: "none".to_owned(),
            vocabulary_size: self.model.vocabulary,
            mapped_bytes: 0,
            copied_bytes: 0,
            end_token_ids: vec![self.model.end_token],
        })
    }
}

impl fmt::Display for FakeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<FakeSpec> for String {
    fn from(spec: FakeSpec) -> Self {
        spec.text
    }
}

impl TryFrom<String> for FakeSpec {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// The text is no description of a fake model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// Something else than KEY=NUMBER.
    #[error("expected KEY=NUMBER instead of {0:?}, for example step_ms=5,per_decode_us=20")]
    NotASetting(String),
    /// No such key.
    #[error("no such key: {0}; there are {keys}", keys = KEYS.join(", "))]
    UnknownKey(String),
}

const KEYS: [&str; 11] = [
    "step_ms",
    "per_decode_us",
    "per_prefill_us",
    "load_ms",
    "fail_load",
    "vocabulary",
    "end_token",
    "end_probability",
    "pipeline_depth",
    "fail_at_step",
    "panic_at_step",
];

impl FromStr for FakeSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut spec = Self {
            text: text.to_owned(),
            model: FakeModelConfig {
                pace: Pace::RealTime,
                step_time: StepTime::default(),
                faults: FakeFaults::default(),
                ..FakeModelConfig::default()
            },
            load_time: Duration::ZERO,
            fails_to_load: false,
        };
        for setting in text.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
            let wrong = || ParseError::NotASetting(setting.to_owned());
            let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
            if !KEYS.contains(&key) {
                return Err(ParseError::UnknownKey(key.to_owned()));
            }
            spec.apply(key, value).ok_or_else(wrong)?;
        }
        Ok(spec)
    }
}

impl FakeSpec {
    /// Applies one setting; `None` where the value is no number of its kind.
    fn apply(&mut self, key: &str, value: &str) -> Option<()> {
        let model = &mut self.model;
        match key {
            "step_ms" => model.step_time.base = duration(value, 1e-3)?,
            "per_decode_us" => model.step_time.per_decode_token = duration(value, 1e-6)?,
            "per_prefill_us" => model.step_time.per_prefill_token = duration(value, 1e-6)?,
            "load_ms" => self.load_time = duration(value, 1e-3)?,
            "fail_load" => self.fails_to_load = value.parse::<u8>().ok()? > 0,
            "vocabulary" => model.vocabulary = value.parse().ok().filter(|size| *size >= 2)?,
            "end_token" => model.end_token = value.parse().ok()?,
            "end_probability" => model.end_probability = value.parse().ok().filter(|p| (0.0..=1.0).contains(p))?,
            "pipeline_depth" => model.limits.pipeline_depth = value.parse().ok().filter(|depth| *depth <= 1)?,
            "fail_at_step" => model.faults.fail_wait_at_step = Some(value.parse().ok()?),
            "panic_at_step" => model.faults.panic_at_step = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

fn duration(value: &str, unit: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value.parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_sets_what_it_names() {
        let spec: FakeSpec = "step_ms=2.5, per_decode_us=10,end_probability=0.5,fail_at_step=3"
            .parse()
            .unwrap();
        assert_eq!(spec.model.step_time.base, Duration::from_micros(2500));
        assert_eq!(spec.model.step_time.per_decode_token, Duration::from_micros(10));
        assert_eq!(spec.model.end_probability, 0.5);
        assert_eq!(spec.model.faults.fail_wait_at_step, Some(3));
        assert_eq!(spec.model.pace, Pace::RealTime);
    }

    #[test]
    fn every_key_can_be_set() {
        for key in KEYS {
            assert!(
                format!("{key}=1").parse::<FakeSpec>().is_ok() || key == "vocabulary",
                "{key}"
            );
        }
        assert!("vocabulary=100".parse::<FakeSpec>().is_ok());
        assert!("".parse::<FakeSpec>().is_ok());
    }

    #[test]
    fn other_specs_are_refused_by_name() {
        for (text, named) in [
            ("step_ms", "step_ms"),
            ("step_ms=fast", "step_ms=fast"),
            ("speed=5", "speed"),
            ("end_probability=2", "end_probability=2"),
            ("step_ms=-1", "step_ms=-1"),
        ] {
            let error = text.parse::<FakeSpec>().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
