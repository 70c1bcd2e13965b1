//! A seeded sequence draws the same tokens whatever happens around it.

use std::sync::Arc;

use kr_contract::{SamplingParams, TokenId};
use kr_engine::model::{Model, Sample, SlotId, TokenHistory};

use super::{PIPELINES, Pipeline, entry, expected, pipelined, run};
use crate::testing::{Rig, with_params};

const TOKENS: usize = 12;

/// A sequence as the engine would keep it.
#[derive(Debug, Clone)]
struct Live {
    slot: u32,
    prompt: Vec<TokenId>,
    answer: Vec<TokenId>,
    written: usize,
    params: SamplingParams,
}

impl Live {
    fn known(&self) -> Vec<TokenId> {
        [self.prompt.as_slice(), &self.answer].concat()
    }

    fn sample(&self) -> Sample {
        let mut history = TokenHistory::default();
        history.add_prompt(&self.prompt);
        self.answer.iter().for_each(|id| history.add_generated(*id));
        Sample {
            position: u32::try_from(self.answer.len()).unwrap(),
            history: Some(Arc::new(history)),
            ..with_params(self.params.clone())
        }
    }
}

/// One step in which each sequence runs all it has not, and samples.
fn advance(rig: &mut Rig, lives: &mut [Live]) {
    let known: Vec<_> = lives.iter().map(Live::known).collect();
    let entries = lives.iter().zip(&known).map(|(live, known)| {
        entry(
            &run(live.slot, live.written, &known[live.written..]),
            Some(live.sample()),
        )
    });
    let output = rig.run(entries.collect());
    for ((live, known), sampled) in lives.iter_mut().zip(known).zip(output.sampled) {
        live.written = known.len();
        live.answer.push(sampled.token.unwrap());
    }
}

/// Sequences of different lengths and settings.
fn sequences() -> Vec<Live> {
    let (ids, _) = expected("llama-tied");
    let settings: [fn(&mut SamplingParams); 5] = [
        |_| {},
        |params| (params.temperature, params.top_p) = (1.4, 0.9),
        |params| (params.repetition_penalty, params.top_k) = (1.3, 30),
        |params| (params.frequency_penalty, params.presence_penalty, params.min_p) = (0.8, 0.3, 0.02),
        |params| (params.temperature, params.repetition_penalty) = (0.0, 1.5),
    ];
    let live = |(change, index): (fn(&mut SamplingParams), u32)| {
        let mut params = SamplingParams {
            seed: 77 + u64::from(index / 2),
            choice_index: index % 2,
            ..SamplingParams::default()
        };
        change(&mut params);
        Live {
            slot: index,
            prompt: ids[index as usize..index as usize * 3 + 4].to_vec(),
            answer: Vec::new(),
            written: 0,
            params,
        }
    };
    settings.into_iter().zip(0..).map(live).collect()
}

fn alone(pipeline: Pipeline) -> Vec<Vec<TokenId>> {
    let one = |live: Live| {
        let mut rig = pipelined(pipeline);
        rig.acquire(live.slot, 0);
        let mut lives = [live];
        (0..TOKENS).for_each(|_| advance(&mut rig, &mut lives));
        let [live] = lives;
        live.answer
    };
    sequences().into_iter().map(one).collect()
}

#[test]
fn a_seed_gives_the_same_tokens_alone_in_batches_after_preemption_and_after_replay() {
    for pipeline in PIPELINES {
        let alone = alone(pipeline);
        assert_eq!(alone, self::alone((0, pipeline.1)), "the depth counts: {pipeline:?}");
        let mut lives = sequences();
        let mut rig = pipelined(pipeline);
        lives.iter().for_each(|live| rig.acquire(live.slot, 0));
        for step in 0..TOKENS {
            if step == 5 {
                // Preempted: its KV is gone, and it comes back elsewhere and in another order.
                for live in &mut lives[1..3] {
                    rig.model.release(SlotId(live.slot));
                    (live.slot, live.written) = (live.slot + 10, 0);
                    rig.acquire(live.slot, 1);
                }
                lives.rotate_left(2);
            }
            if step == 8 {
                // Replayed by another worker, which is told what was emitted.
                drop(rig);
                rig = pipelined(pipeline);
                for live in &mut lives {
                    live.written = 0;
                    rig.acquire(live.slot, 0);
                }
            }
            advance(&mut rig, &mut lives);
        }
        lives.rotate_right(2);
        let together: Vec<_> = lives.into_iter().map(|live| live.answer).collect();
        assert_eq!(together, alone, "{pipeline:?}");
    }
}
