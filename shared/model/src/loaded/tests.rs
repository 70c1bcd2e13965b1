mod budget;
mod scores;
mod seeds;

use std::sync::Arc;

use kr_contract::{SamplingParams, TokenId};
use kr_engine::model::{Input, Model, ModelError, PlanEntry, Sample, SampleError, SlotId};
use serde_json::json;

use super::LoadedModel;
use crate::sample::Sampler;
use crate::testing::{KERNELS, ModelDir, Rig, Run, assert_close, entry, expected, fixture, greedy, with_params};
use crate::{ComputeDtype, Kernels, LoadOptions};

const TOLERANCE: f32 = 2e-4;

impl LoadedModel {
    /// Fills all KV memory with NaN.
    pub(crate) fn poison_kv(&mut self) {
        self.kv.poison();
    }

    /// Where KV lies in memory.
    pub(crate) fn kv_addresses(&self) -> Vec<usize> {
        self.kv
            .arrays()
            .map(|array| array.as_slice::<f32>().as_ptr() as usize)
            .collect()
    }

    /// Bytes that KV takes.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.kv.arena_bytes()
    }
}

impl Rig {
    pub(crate) fn sample_greedy(&mut self, runs: &[Run<'_>]) -> Vec<TokenId> {
        let runs: Vec<_> = runs.iter().map(|run| (*run, greedy())).collect();
        self.sample(&runs)
            .sampled
            .into_iter()
            .map(|sampled| sampled.token.unwrap())
            .collect()
    }
}

fn run(slot: u32, start: usize, ids: &[TokenId]) -> Run<'_> {
    Run { slot, start, ids }
}

#[test]
fn prefill_chunks_and_decodes_mix_in_one_step() {
    for (name, kernels) in ["llama-tied", "llama-untied"]
        .into_iter()
        .flat_map(|name| KERNELS.map(|k| (name, k)))
    {
        let (ids, logits) = expected(name);
        let mut rig = Rig::with_kernels(name, kernels);
        for (slot, bucket) in [(0, 0), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0)] {
            rig.acquire(slot, bucket);
        }
        let mut written = [0_usize; 6];
        // What each slot adds in each step: decodes of different positions and buckets beside chunks of different lengths.
        let steps = [
            [20, 3, 11, 1, 5, 0],
            [1, 1, 1, 1, 1, 30],
            [1, 6, 1, 1, 9, 1],
            [1, 1, 0, 2, 1, 1],
            [0, 1, 1, 0, 0, 0],
        ];
        for lengths in steps {
            let runs: Vec<_> = (0..6)
                .filter(|slot| lengths[*slot] > 0)
                .map(|slot| {
                    run(
                        u32::try_from(slot).unwrap(),
                        written[slot],
                        &ids[written[slot]..written[slot] + lengths[slot]],
                    )
                })
                .collect();
            for (run, found) in runs.iter().zip(rig.logits(&runs)) {
                assert_close(&found, &logits[run.start..run.start + run.ids.len()], TOLERANCE);
                written[run.slot as usize] += run.ids.len();
            }
        }
    }
}

#[test]
fn decodes_come_in_any_order_of_slots() {
    for kernels in KERNELS {
        let (ids, logits) = expected("llama-tied");
        let mut rig = Rig::with_kernels("llama-tied", kernels);
        for slot in 0..5 {
            rig.acquire(slot, 0);
        }
        let prefill: Vec<_> = (0..5).map(|slot| run(slot, 0, &ids[..4 + slot as usize])).collect();
        rig.logits(&prefill);
        let runs: Vec<_> = [3, 0, 4, 1]
            .map(|slot: u32| run(slot, 4 + slot as usize, &ids[4 + slot as usize..=4 + slot as usize]))
            .to_vec();
        for (run, found) in runs.iter().zip(rig.logits(&runs)) {
            assert_close(&found, &logits[run.start..=run.start], TOLERANCE);
        }
    }
}

#[test]
fn sampled_rows_keep_the_order_of_the_plan() {
    let (ids, logits) = expected("llama-tied");
    let most_likely = |position: usize| {
        let row = &logits[position];
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        u32::try_from(best).unwrap()
    };
    let mut rig = Rig::with_kernels("llama-tied", Kernels::Auto);
    for slot in 0..3 {
        rig.acquire(slot, 0);
    }
    let entries = vec![
        entry(&run(2, 0, &ids[..10]), Some(greedy())),
        entry(&run(0, 0, &ids[..5]), None),
        entry(&run(1, 0, &ids[..30]), Some(greedy())),
    ];
    let output = rig.run(entries);
    let chosen: Vec<_> = output
        .sampled
        .iter()
        .map(|sampled| (sampled.sequence.0, sampled.token))
        .collect();
    assert_eq!(chosen, [(2, Ok(most_likely(9))), (1, Ok(most_likely(29)))]);
}

#[test]
fn a_step_that_samples_nothing_is_waited_for() {
    let (ids, logits) = expected("llama-tied");
    let mut rig = Rig::with_kernels("llama-tied", Kernels::Auto);
    rig.acquire(0, 0);
    assert_eq!(rig.run(vec![entry(&run(0, 0, &ids[..16]), None)]).sampled, []);
    assert_close(&rig.logits(&[run(0, 16, &ids[16..])])[0], &logits[16..], TOLERANCE);
}

fn pending(slot: u32, start: u32, sample: Sample) -> PlanEntry {
    PlanEntry {
        input: Input::Pending,
        ..entry(&run(slot, start as usize, &[]), Some(sample))
    }
}

/// A pipeline depth, and where tokens are chosen.
type Pipeline = (u32, Sampler);

const PIPELINES: [Pipeline; 4] = [
    (0, Sampler::Host),
    (1, Sampler::Host),
    (0, Sampler::Device),
    (1, Sampler::Device),
];

fn pipelined((depth, sampler): Pipeline) -> Rig {
    let options = LoadOptions {
        pipeline_depth: Some(depth),
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(&fixture("llama-tied"), &options);
    rig.model.sampler = sampler;
    rig
}

/// Settings of three sequences: greedy, random, filtered.
fn mixed(position: u32) -> [Sample; 3] {
    let random = SamplingParams {
        seed: 5,
        ..SamplingParams::default()
    };
    let filtered = SamplingParams {
        temperature: 1.5,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.01,
        ..random.clone()
    };
    [greedy(), with_params(random), with_params(filtered)].map(|sample| Sample { position, ..sample })
}

/// Decodes three sequences for `steps` tokens, each step read before the next is submitted.
fn one_after_another(steps: u32, sampler: Sampler) -> Vec<Vec<TokenId>> {
    let (ids, _) = expected("llama-tied");
    let mut rig = pipelined((0, sampler));
    let mut answers = vec![Vec::new(); 3];
    for slot in 0..3 {
        rig.acquire(slot, 0);
    }
    for step in 0..steps {
        let samples = mixed(step);
        let inputs: Vec<Vec<TokenId>> = (0..3)
            .map(|slot| match answers[slot].last() {
                None => ids[..4 + slot].to_vec(),
                Some(last) => vec![*last],
            })
            .collect();
        let runs: Vec<_> = (0..3)
            .map(|slot| {
                let start = if step == 0 { 0 } else { 3 + slot + step as usize };
                (
                    run(u32::try_from(slot).unwrap(), start, &inputs[slot]),
                    samples[slot].clone(),
                )
            })
            .collect();
        for (answer, sampled) in answers.iter_mut().zip(rig.sample(&runs).sampled) {
            answer.push(sampled.token.unwrap());
        }
    }
    answers
}

#[test]
fn pending_tokens_continue_as_tokens_that_were_read() {
    let (ids, _) = expected("llama-tied");
    for sampler in [Sampler::Host, Sampler::Device] {
        let expected_answers = one_after_another(6, sampler);
        let mut rig = pipelined((1, sampler));
        for slot in 0..3 {
            rig.acquire(slot, 0);
        }
        let mut answers = vec![Vec::new(); 3];
        let prompts = (0..3_u32)
            .zip(mixed(0))
            .map(|(slot, sample)| entry(&run(slot, 0, &ids[..4 + slot as usize]), Some(sample)));
        let prompts = prompts.collect();
        let plan = rig.plan(prompts);
        let mut open = rig.model.submit(&plan).unwrap();
        for step in 1..6 {
            let decodes = (0..3)
                .zip(mixed(step))
                .map(|(slot, sample)| pending(slot, 3 + slot + step, sample))
                .collect();
            let plan = rig.plan(decodes);
            let next = rig.model.submit(&plan).unwrap();
            for (answer, sampled) in answers.iter_mut().zip(rig.model.wait(open).unwrap().sampled) {
                answer.push(sampled.token.unwrap());
            }
            open = next;
        }
        for (answer, sampled) in answers.iter_mut().zip(rig.model.wait(open).unwrap().sampled) {
            answer.push(sampled.token.unwrap());
        }
        assert_eq!(answers, expected_answers);
    }
}

#[test]
fn what_is_pending_must_have_been_sampled() {
    let (ids, _) = expected("llama-tied");
    for pipeline in PIPELINES {
        let mut rig = pipelined(pipeline);
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        rig.run(vec![
            entry(&run(0, 0, &ids[..4]), Some(greedy())),
            entry(&run(1, 0, &ids[..4]), None),
        ]);
        let plan = rig.plan(vec![pending(1, 4, greedy())]);
        assert!(matches!(rig.model.submit(&plan), Err(ModelError::Contract(_))));
    }
}

#[test]
fn log_probabilities_are_the_same_at_either_depth() {
    let (ids, _) = expected("llama-tied");
    let asked = with_params(SamplingParams {
        temperature: 0.0,
        logprobs: Some(3),
        ..SamplingParams::default()
    });
    let outputs = PIPELINES.map(|pipeline| {
        let mut rig = pipelined(pipeline);
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        rig.sample(&[(run(0, 0, &ids[..4]), greedy()), (run(1, 0, &ids[..9]), asked.clone())])
    });
    for output in &outputs {
        assert_eq!(*output, outputs[0]);
    }
    assert_eq!(outputs[0].sampled[0].logprobs, None);
    let logprobs = outputs[0].sampled[1].logprobs.clone().unwrap();
    assert_eq!(logprobs.top.len(), 3);
    assert_eq!(logprobs.top[0], (outputs[0].sampled[1].token.unwrap(), logprobs.chosen));
}

#[test]
fn logits_that_are_not_finite_end_their_own_sequence_only() {
    let (ids, _) = expected("llama-tied");
    for pipeline in PIPELINES {
        let mut rig = pipelined(pipeline);
        for slot in 0..2 {
            rig.acquire(slot, 0);
        }
        rig.model.poison_kv();
        rig.model.release(SlotId(1));
        rig.acquire(1, 0);
        let output = rig.sample(&[(run(0, 5, &ids[..1]), greedy()), (run(1, 0, &ids[..9]), greedy())]);
        assert_eq!(output.sampled[0].token, Err(SampleError::NotFinite));
        assert!(output.sampled[1].token.is_ok());
    }
}

#[test]
fn a_plan_that_breaks_the_contract_is_refused() {
    let (ids, _) = expected("llama-tied");
    let mut rig = Rig::with_kernels("llama-tied", Kernels::Auto);
    rig.acquire(0, 0);
    let penalised = with_params(SamplingParams {
        presence_penalty: 0.5,
        ..SamplingParams::default()
    });
    let long = vec![1; 257];
    let plans = [
        vec![],
        vec![entry(&run(1, 0, &ids[..1]), None)],
        vec![entry(&run(0, 0, &[]), None)],
        vec![entry(&run(0, 0, &long), None)],
        vec![entry(&run(0, 250, &ids[..7]), None)],
        vec![entry(&run(0, 0, &[97]), None)],
        vec![entry(&run(0, 0, &ids[..1]), None), entry(&run(0, 1, &ids[1..2]), None)],
        vec![entry(&run(0, 0, &ids[..1]), Some(penalised))],
        vec![scores::scored(0, 0, &ids[..5], &ids[1..4])],
        vec![scores::scored(0, 0, &ids[..2], &[1, 97])],
    ];
    for (number, entries) in plans.into_iter().enumerate() {
        let plan = rig.plan(entries);
        assert!(
            matches!(rig.model.submit(&plan), Err(ModelError::Contract(_))),
            "plan {number}"
        );
    }
}

#[test]
fn a_full_slot_is_used_to_its_last_position() {
    for kernels in KERNELS {
        let mut rig = Rig::with_kernels("llama-tied", kernels);
        rig.acquire(0, 0);
        rig.acquire(1, 0);
        let ids: Vec<_> = (0..256).map(|index| index * 7 % 97).collect();
        let whole = rig.logits(&[run(0, 0, &ids)]).remove(0);
        rig.logits(&[run(1, 0, &ids[..255])]);
        assert_close(&rig.logits(&[run(1, 255, &ids[255..])])[0], &whole[255..], TOLERANCE);
    }
}

#[test]
fn forbidden_ids_and_bias_hold_at_either_depth() {
    let (ids, _) = expected("llama-tied");
    for pipeline in PIPELINES {
        let mut rig = pipelined(pipeline);
        for slot in 0..3 {
            rig.acquire(slot, 0);
        }
        let first = rig.sample_greedy(&[run(0, 0, &ids[..9])])[0];
        let forbidding = Sample {
            forbidden: Arc::from([first, 4_000_000]),
            ..greedy()
        };
        let biased = with_params(SamplingParams {
            temperature: 0.0,
            logit_bias: vec![(13, 100.0), (4_000_000, 1.0)],
            ..SamplingParams::default()
        });
        let output = rig.sample(&[(run(1, 0, &ids[..9]), forbidding), (run(2, 0, &ids[..9]), biased)]);
        assert_ne!(output.sampled[0].token, Ok(first));
        assert_eq!(output.sampled[1].token, Ok(13));
    }
}

#[test]
fn an_unknown_generation_config_field_is_no_obstacle() {
    let dir = ModelDir::fixture("llama-tied").write();
    std::fs::write(
        dir.path().join("generation_config.json"),
        json!({"eos_token_id": 9, "new": 1}).to_string(),
    )
    .unwrap();
    let rig = Rig::new(dir.path(), &LoadOptions::default());
    assert_eq!(rig.model.info().eos_token_ids, [9]);
}

#[test]
fn options_out_of_range_are_named() {
    let options = LoadOptions {
        max_sequences: 0,
        ..LoadOptions::default()
    };
    let error = crate::load(&fixture("llama-tied"), &options).unwrap_err();
    assert_eq!(error.to_string(), "max_sequences is 0, allowed is 1 to 4096");
    assert_eq!("float32".parse(), Ok(ComputeDtype::Float32));
    assert!("float8".parse::<ComputeDtype>().is_err());
}

/// The bits of the logits of every token of sequences that are run in the given chunks, (slot, length) each.
#[cfg(target_os = "linux")]
fn bits(threads: u32, steps: &[Vec<(u32, usize)>]) -> Vec<Vec<Vec<u32>>> {
    let options = LoadOptions {
        threads: Some(threads),
        max_sequences: 64,
        ..LoadOptions::default()
    };
    let mut rig = Rig::new(&fixture("llama-untied"), &options);
    let sequences = steps.iter().flatten().map(|(slot, _)| *slot).max().unwrap() + 1;
    let ids: Vec<Vec<TokenId>> = (0..sequences)
        .map(|slot| (0..40).map(|index| (index * 7 + slot * 13) % 51).collect())
        .collect();
    for slot in 0..sequences {
        rig.acquire(slot, u8::from(slot % 5 == 3));
    }
    let mut found = vec![Vec::new(); sequences as usize];
    for step in steps {
        let runs: Vec<_> = step
            .iter()
            .map(|(slot, len)| {
                let start = found[*slot as usize].len();
                run(*slot, start, &ids[*slot as usize][start..start + len])
            })
            .collect();
        for ((slot, _), logits) in step.iter().zip(rig.logits(&runs)) {
            found[*slot as usize].extend(
                logits
                    .into_iter()
                    .map(|row| row.into_iter().map(f32::to_bits).collect()),
            );
        }
    }
    found
}

/// What the numerics class `invariant` promises.
#[test]
#[cfg(target_os = "linux")]
fn batch_chunks_and_threads_change_no_bit_of_a_sequence() {
    let fingerprint = Rig::with_kernels("llama-untied", Kernels::Auto)
        .model
        .info()
        .fingerprint
        .clone();
    assert_eq!(fingerprint.class, kr_contract::Exactness::Invariant, "{fingerprint}");
    let alone: Vec<_> = (0..32)
        .map(|slot| bits(1, &[vec![(slot, 24)]]).remove(slot as usize))
        .collect();
    for (count, threads) in [(1, 2), (12, 1), (16, 2), (31, 1), (32, 2)] {
        let chunk = |length: usize| (0..count).map(|slot| (slot, length)).collect::<Vec<_>>();
        let uneven: Vec<_> = (0..count).map(|slot| (slot, 1 + slot as usize % 7)).collect();
        let mut steps = vec![chunk(10), chunk(1), uneven, chunk(1), chunk(1)];
        steps[3].reverse();
        for (sequence, alone) in bits(threads, &steps).into_iter().zip(&alone) {
            assert!(
                sequence == alone[..sequence.len()],
                "{count} sequences, {threads} threads"
            );
        }
    }
}
