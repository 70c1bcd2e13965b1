//! Log probabilities of known tokens.

use kr_contract::TokenId;
use kr_engine::model::{Logprobs, PlanEntry, Score};

use super::{PIPELINES, entry, expected, greedy, pipelined, run};
use crate::Kernels;
use crate::testing::Rig;

pub(super) fn scored(slot: u32, start: usize, ids: &[TokenId], targets: &[TokenId]) -> PlanEntry {
    PlanEntry {
        score: Some(Score {
            top: 2,
            targets: targets.to_vec(),
        }),
        ..entry(&run(slot, start, ids), None)
    }
}

fn log_softmax(logits: &[f32], id: TokenId) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(logits[id as usize]) - sum.ln()
}

fn assert_scores(found: &[Logprobs], logits: &[Vec<f32>], targets: &[TokenId]) {
    assert_eq!(found.len(), targets.len());
    for ((found, logits), target) in found.iter().zip(logits).zip(targets) {
        assert!((f64::from(found.chosen) - log_softmax(logits, *target)).abs() < 1e-3);
        assert_eq!(found.top.len(), 2);
        for (id, logprob) in &found.top {
            assert!((f64::from(*logprob) - log_softmax(logits, *id)).abs() < 1e-3);
        }
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!((logits[found.top[0].0 as usize] - best).abs() < 1e-3);
    }
}

#[test]
fn a_prompts_tokens_are_scored_beside_other_sequences() {
    let (ids, logits) = expected("llama-tied");
    for pipeline in PIPELINES {
        let mut rig = pipelined(pipeline);
        for slot in 0..3 {
            rig.acquire(slot, 0);
        }
        let output = rig.run(vec![
            entry(&run(2, 0, &ids[..7]), Some(greedy())),
            scored(0, 0, &ids[..30], &ids[1..31]),
            scored(1, 0, &ids[..12], &ids[1..12]),
        ]);
        assert_eq!(output.sampled.len(), 1);
        let of: Vec<_> = output.scored.iter().map(|scored| scored.sequence.0).collect();
        assert_eq!(of, [0, 1]);
        assert_scores(&output.scored[0].logprobs, &logits[..30], &ids[1..31]);
        assert_scores(&output.scored[1].logprobs, &logits[..11], &ids[1..12]);
        let rest = PlanEntry {
            sample: Some(greedy()),
            ..scored(0, 30, &ids[30..], &ids[31..])
        };
        let output = rig.run(vec![rest]);
        assert_scores(&output.scored[0].logprobs, &logits[30..], &ids[31..]);
        assert!(output.sampled[0].token.is_ok());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_chunks_of_a_prompt_change_no_bit_of_its_scores() {
    let (ids, _) = expected("llama-tied");
    let scores = |cuts: &[usize]| {
        let mut rig = Rig::with_kernels("llama-tied", Kernels::Auto);
        rig.acquire(0, 0);
        let mut found = Vec::new();
        for cut in cuts.windows(2) {
            let targets = &ids[cut[0] + 1..(cut[1] + 1).min(ids.len())];
            let output = rig.run(vec![scored(0, cut[0], &ids[cut[0]..cut[1]], targets)]);
            found.extend(output.scored.into_iter().flat_map(|scored| scored.logprobs));
        }
        found
    };
    let whole = scores(&[0, 40]);
    assert_eq!(whole.len(), 39);
    assert_eq!(scores(&[0, 1, 17, 30, 40]), whole);
}
