//! Held to the distributions that Hugging Face's logits processors make: see fixtures/make_sampling.py.

use std::sync::Arc;

use kr_contract::{SamplingParams, TokenId};
use kr_engine::model::{Sample, TokenHistory};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{assert_follows, device_tokens, host_tokens, kept};
use crate::testing::with_params;

#[derive(Debug, Deserialize)]
struct Fixture {
    logits: Vec<f32>,
    prompt: Vec<TokenId>,
    generated: Vec<TokenId>,
    end_ids: Vec<TokenId>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    params: Map<String, Value>,
    probabilities: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../fixtures/sampling.json")).unwrap()
}

impl Fixture {
    /// What the engine would ask for after the generated tokens.
    fn sample(&self, case: &Case) -> Sample {
        let float = |value: &Value| f32::deserialize(value).unwrap();
        let number = |field: &str, off: f32| case.params.get(field).map_or(off, float);
        let count =
            |field: &str| u32::try_from(case.params.get(field).map_or(0, |value| value.as_u64().unwrap())).unwrap();
        let bias = case.params.get("logit_bias").and_then(Value::as_object);
        let params = SamplingParams {
            temperature: number("temperature", 1.0),
            top_p: number("top_p", 1.0),
            top_k: count("top_k"),
            min_p: number("min_p", 0.0),
            repetition_penalty: number("repetition_penalty", 1.0),
            presence_penalty: number("presence_penalty", 0.0),
            frequency_penalty: number("frequency_penalty", 0.0),
            logit_bias: bias
                .into_iter()
                .flatten()
                .map(|(id, bias)| (id.parse().unwrap(), float(bias)))
                .collect(),
            min_tokens: count("min_tokens"),
            seed: 23,
            ..SamplingParams::default()
        };
        let forbidden = if params.min_tokens as usize > self.generated.len() {
            self.end_ids.clone()
        } else {
            Vec::new()
        };
        let mut history = TokenHistory::default();
        history.add_prompt(&self.prompt);
        self.generated.iter().for_each(|id| history.add_generated(*id));
        Sample {
            forbidden: forbidden.into(),
            history: super::super::has_penalties(&params).then(|| Arc::new(history)),
            ..with_params(params)
        }
    }
}

#[test]
fn the_host_keeps_what_the_reference_keeps() {
    let fixture = fixture();
    for case in &fixture.cases {
        let found = kept(&fixture.logits, &fixture.sample(case));
        for (id, (found, expected)) in found.iter().zip(&case.probabilities).enumerate() {
            assert_eq!(*found > 1e-30, *expected > 1e-30, "{:?}: token {id}", case.params);
            assert!(
                (found - expected).abs() < 2e-6,
                "{:?}: token {id}: {found} {expected}",
                case.params
            );
        }
    }
}

#[test]
fn tokens_follow_the_references_distribution() {
    let fixture = fixture();
    for case in &fixture.cases {
        let sample = fixture.sample(case);
        let host = host_tokens(&fixture.logits, &sample, 10_000);
        assert_follows(&host, &case.probabilities, &case.params);
        let device = device_tokens(&fixture.logits, &sample, 2_000);
        assert_follows(&device, &case.probabilities, &case.params);
        let different = host.iter().zip(&device).filter(|(host, device)| host != device).count();
        // A float32 sum may fall on the other side of a boundary once in a while.
        assert!(different <= 4, "{:?}: {different} of 2000 differ", case.params);
    }
}

#[test]
fn the_penalties_change_greedy_answers_on_both_paths() {
    let fixture = fixture();
    let best = host_tokens(&fixture.logits, &super::greedy(), 1)[0];
    let greedy = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        change(&mut params);
        let mut history = TokenHistory::default();
        history.add_generated(best);
        let sample = Sample {
            history: Some(Arc::new(history)),
            ..with_params(params)
        };
        let host = host_tokens(&fixture.logits, &sample, 1)[0];
        assert_eq!(device_tokens(&fixture.logits, &sample, 1)[0], host);
        host
    };
    assert_eq!(greedy(|_| {}), best);
    assert_ne!(greedy(|params| params.repetition_penalty = 2.0), best);
    assert_ne!(greedy(|params| params.frequency_penalty = 2.0), best);
    assert_ne!(
        greedy(|params| (params.presence_penalty, params.frequency_penalty) = (1.2, 1.2)),
        best
    );
}
