use super::*;
use crate::model::Logprobs;

fn scored(id: u64, prompt_tokens: u32, max_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        prompt_logprobs: Some(2),
        ..request(id, prompt_tokens, max_tokens)
    }
}

/// Runs until nothing is left; returns the scores of sequence `id`, which all come before its first token or with it.
fn scores(rig: &mut Rig, id: u64) -> Vec<Logprobs> {
    let (mut scores, mut has_tokens) = (Vec::new(), false);
    while let Some(applied) = rig.turn() {
        for update in applied.updates.into_iter().filter(|update| update.id.0 == id) {
            assert!(!has_tokens || update.prompt_logprobs.is_empty());
            scores.extend(update.prompt_logprobs);
            has_tokens |= !update.ids.is_empty();
        }
    }
    scores
}

fn expected(rig: &Rig, request: &SequenceRequest) -> Vec<Logprobs> {
    rig.config.expected_prompt_logprobs(&request.prompt, 2)
}

#[test]
fn every_prompt_token_but_the_first_is_scored_once_in_order() {
    for depth in [0, 1] {
        for prompt_tokens in [1, 2, 16, 17, 33, 40] {
            let mut rig = rig_of_depth(depth);
            let request = scored(1, prompt_tokens, 3);
            rig.admit(request.clone()).unwrap();
            assert_eq!(scores(&mut rig, 1), expected(&rig, &request), "{prompt_tokens} tokens");
        }
    }
}

#[test]
fn emitted_tokens_are_not_scored() {
    let mut rig = rig();
    let request = SequenceRequest {
        emitted: vec![7, 8, 9],
        ..scored(1, 10, 3)
    };
    rig.admit(request.clone()).unwrap();
    assert_eq!(scores(&mut rig, 1), expected(&rig, &request));
}

#[test]
fn a_prompt_computed_again_is_not_scored_again() {
    for depth in [0, 1] {
        let limits = ModelLimits {
            kv_budget_bytes: 64,
            pipeline_depth: depth,
            ..limits()
        };
        let mut rig = Rig::new(scheduler(12), fake(limits));
        for id in 1..=2 {
            rig.admit(request(id, 10, 14)).unwrap();
        }
        let last = scored(3, 10, 14);
        rig.admit(last.clone()).unwrap();
        assert_eq!(scores(&mut rig, 3), expected(&rig, &last));
        let starts = rig.plans.iter().flat_map(|plan| &plan.entries);
        let starts = starts.filter(|entry| entry.sequence.0 == 3 && entry.start == 0);
        assert!(starts.count() > 1, "depth {depth}: it was never preempted");
    }
}
