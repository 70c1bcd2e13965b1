//! How the next token is chosen. Every setting of the API that reaches the arrays; text-level settings (stop strings,
//! grouping) stay in the router.

use crate::TokenId;

/// Settings of one sequence, complete: no field is filled in later.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 chooses the most likely token; otherwise logits are divided by it. At most 100.
    pub temperature: f32,
    /// Keeps the smallest set of most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps tokens at least this times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (or multiplies, below zero) the logit of every token already seen; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token already generated; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was generated; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Resolved by the router, never by the worker: a replay needs the same one.
    pub seed: u64,
    /// Which of the request's `n` answers this is.
    pub choice_index: u32,
    /// No end token or stop id is chosen before this many were generated.
    pub min_tokens: u32,
    /// End tokens do not end the sequence.
    pub ignore_eos: bool,
    /// Log probabilities to report: `None` for none, `Some(n)` for the chosen token's and the `n` most likely ones'.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice_index: 0,
            min_tokens: 0,
            ignore_eos: false,
            logprobs: None,
        }
    }
}

/// One setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}, allowed is {allowed}")]
pub struct SamplingError {
    /// The field's name in the API.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// The range, in words.
    pub allowed: &'static str,
}

impl SamplingParams {
    /// Returns whether the most likely token is always chosen.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every setting against its range and returns all violations, so that a client mends them at once.
    #[must_use]
    pub fn violations(&self) -> Vec<SamplingError> {
        let mut found = Vec::new();
        let mut check = |field, value: f32, inside: bool, allowed| {
            if !inside {
                found.push(SamplingError {
                    field,
                    value: value.to_string(),
                    allowed,
                });
            }
        };
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        check(
            "temperature",
            self.temperature,
            within(self.temperature, 0.0, 100.0),
            "0 to 100",
        );
        check(
            "top_p",
            self.top_p,
            self.top_p > 0.0 && self.top_p <= 1.0,
            "above 0, up to 1",
        );
        check("min_p", self.min_p, within(self.min_p, 0.0, 1.0), "0 to 1");
        let repetition = self.repetition_penalty;
        check(
            "repetition_penalty",
            repetition,
            repetition > 0.0 && repetition <= 100.0,
            "above 0, up to 100",
        );
        check(
            "presence_penalty",
            self.presence_penalty,
            within(self.presence_penalty, -2.0, 2.0),
            "-2 to 2",
        );
        check(
            "frequency_penalty",
            self.frequency_penalty,
            within(self.frequency_penalty, -2.0, 2.0),
            "-2 to 2",
        );
        for (_, bias) in &self.logit_bias {
            check("logit_bias", *bias, within(*bias, -100.0, 100.0), "-100 to 100");
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_inside_their_ranges() {
        assert_eq!(SamplingParams::default().violations(), []);
    }

    #[test]
    fn every_violation_is_named_at_once() {
        let params = SamplingParams {
            temperature: f32::NAN,
            top_p: 0.0,
            min_p: 1.5,
            repetition_penalty: f32::INFINITY,
            presence_penalty: 3.0,
            frequency_penalty: -3.0,
            logit_bias: vec![(1, 200.0)],
            ..SamplingParams::default()
        };
        let fields: Vec<_> = params.violations().iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            [
                "temperature",
                "top_p",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
                "logit_bias"
            ]
        );
    }
}
