use std::sync::Arc;

use kr_contract::SequenceId;

use super::*;

const SLOT: SlotId = SlotId(0);

fn config(pipeline_depth: u32) -> FakeModelConfig {
    let defaults = FakeModelConfig::default();
    FakeModelConfig {
        limits: ModelLimits {
            context_tokens: 16,
            max_sequences: 2,
            bucket_tokens: vec![4, 16],
            kv_bytes_per_token: 1,
            kv_budget_bytes: 20,
            pipeline_depth,
            ..defaults.limits
        },
        ..defaults
    }
}

fn model() -> FakeModel {
    let mut model = FakeModel::new(config(0));
    model.acquire(SLOT, BucketId(0)).unwrap();
    model
}

fn entry(start: u32, ids: &[TokenId]) -> PlanEntry {
    PlanEntry {
        sequence: SequenceId(1),
        slot: SLOT,
        start,
        input: Input::Tokens(ids.to_vec()),
        sample: None,
        score: None,
    }
}

fn sampling(entry: PlanEntry, position: u32) -> PlanEntry {
    PlanEntry {
        sample: Some(Sample {
            params: Arc::new(SamplingParams::default()),
            position,
            forbidden: Arc::default(),
            history: None,
        }),
        ..entry
    }
}

fn step(step: u64, entries: Vec<PlanEntry>) -> StepPlan {
    StepPlan { step, entries }
}

fn run(model: &mut FakeModel, plan: &StepPlan) -> Result<StepOutput, ModelError> {
    let ticket = model.submit(plan)?;
    model.wait(ticket)
}

fn assert_breach<T: std::fmt::Debug>(result: Result<T, ModelError>, part: &str) {
    match result {
        Err(ModelError::Contract(detail)) => assert!(detail.contains(part), "{detail}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn a_plan_that_breaks_the_contract_is_refused() {
    let other_slot = PlanEntry {
        slot: SlotId(1),
        ..entry(0, &[1])
    };
    let pending = PlanEntry {
        input: Input::Pending,
        ..entry(0, &[])
    };
    let cases = [
        (step(2, vec![entry(0, &[1])]), "follows step"),
        (step(1, vec![]), "without entries"),
        (step(1, vec![entry(0, &[])]), "without input"),
        (step(1, vec![entry(1, &[1])]), "starts at"),
        (step(1, vec![entry(0, &[1, 2, 3, 4, 5])]), "do not fit"),
        (step(1, vec![other_slot.clone()]), "not acquired"),
        (step(1, vec![entry(0, &[1]), other_slot]), "planned twice"),
        (step(1, vec![pending]), "sampled nothing"),
    ];
    for (plan, part) in cases {
        assert_breach(run(&mut model(), &plan), part);
    }
}

#[test]
fn slots_that_break_the_contract_are_refused() {
    assert_breach(model().acquire(SLOT, BucketId(0)), "held already");
    assert_breach(model().acquire(SlotId(2), BucketId(0)), "does not exist");
    assert_breach(model().acquire(SlotId(1), BucketId(2)), "does not exist");
    assert_breach(model().promote(SlotId(1), BucketId(1), 0), "not acquired");
    assert_breach(model().promote(SLOT, BucketId(0), 0), "goes from");
    assert_breach(model().promote(SLOT, BucketId(1), 1), "holds 0 tokens");
    let mut full = model();
    full.promote(SLOT, BucketId(1), 0).unwrap();
    assert_breach(full.acquire(SlotId(1), BucketId(1)), "budget");
}

#[test]
fn a_slot_is_not_released_twice_or_under_an_open_step() {
    let plan = step(1, vec![entry(0, &[1])]);
    let mut twice = model();
    twice.release(SLOT);
    twice.release(SLOT);
    assert_breach(twice.submit(&plan), "not held");
    let mut open = FakeModel::new(config(1));
    open.acquire(SLOT, BucketId(0)).unwrap();
    open.submit(&plan).unwrap();
    open.release(SLOT);
    assert_breach(open.submit(&step(2, vec![entry(1, &[1])])), "while a step uses it");
}

#[test]
fn no_more_steps_are_open_than_the_pipeline_is_deep() {
    for depth in [0, 1] {
        let mut model = FakeModel::new(config(depth));
        model.acquire(SLOT, BucketId(0)).unwrap();
        for open in 0..=depth {
            model
                .submit(&step(u64::from(open) + 1, vec![entry(open, &[1])]))
                .unwrap();
        }
        let next = step(u64::from(depth) + 2, vec![entry(depth + 1, &[1])]);
        assert_breach(model.submit(&next), "open already");
    }
}

#[test]
fn steps_are_waited_for_in_order() {
    let mut model = FakeModel::new(config(1));
    model.acquire(SLOT, BucketId(0)).unwrap();
    let _first = model.submit(&step(1, vec![entry(0, &[1])])).unwrap();
    let second = model.submit(&step(2, vec![entry(1, &[1])])).unwrap();
    assert_breach(model.wait(second), "not the oldest");
}

#[test]
fn chunks_and_unread_tokens_give_the_expected_tokens() {
    let config = config(1);
    let params = SamplingParams::default();
    let expected = config.expected_tokens(&[7, 8, 9], &params, 2);
    let mut model = FakeModel::new(config);
    model.acquire(SLOT, BucketId(1)).unwrap();
    let first = model.submit(&step(1, vec![entry(0, &[7])])).unwrap();
    let second = model.submit(&step(2, vec![sampling(entry(1, &[8, 9]), 0)])).unwrap();
    model.wait(first).unwrap();
    let pending = PlanEntry {
        input: Input::Pending,
        ..entry(3, &[])
    };
    let third = model.submit(&step(3, vec![sampling(pending, 1)])).unwrap();
    let mut token = |ticket| model.wait(ticket).unwrap().sampled[0].token.unwrap();
    assert_eq!([token(second), token(third)], expected[..]);
}

#[test]
fn every_id_and_every_setting_of_the_seed_changes_what_follows() {
    let config = config(0);
    let params = SamplingParams::default();
    let greedy = SamplingParams {
        temperature: 0.0,
        ..params.clone()
    };
    let next = |prompt: &[TokenId], params: &SamplingParams| config.expected_tokens(prompt, params, 4);
    let base = next(&[1, 2, 3], &params);
    assert_eq!(base, next(&[1, 2, 3], &params));
    let seeded = |seed, choice_index| SamplingParams {
        seed,
        choice_index,
        ..params.clone()
    };
    assert_ne!(base, next(&[1, 3, 2], &params));
    assert_ne!(base, next(&[0, 2, 3], &params));
    assert_ne!(base, next(&[1, 2, 3], &seeded(1, 0)));
    assert_ne!(base, next(&[1, 2, 3], &seeded(0, 1)));
    assert_ne!(base, next(&[1, 2, 3], &greedy));
    let unseeded = SamplingParams {
        seed: 9,
        ..greedy.clone()
    };
    assert_eq!(next(&[1, 2, 3], &greedy), next(&[1, 2, 3], &unseeded));
}

#[test]
fn the_end_token_comes_as_often_as_it_was_told_to() {
    let count = |end_probability| {
        let config = FakeModelConfig {
            end_probability,
            ..config(0)
        };
        let first = |id| config.expected_tokens(&[id], &SamplingParams::default(), 1)[0];
        (0..1000).filter(|id| first(*id) == config.end_token).count()
    };
    assert_eq!((count(0.0), count(1.0)), (0, 1000));
    assert!((200..300).contains(&count(0.25)), "{}", count(0.25));
}

#[test]
fn a_step_takes_the_sum_of_its_parts() {
    let time = StepTime {
        base: Duration::from_millis(100),
        per_decode_token: Duration::from_millis(10),
        per_prefill_token: Duration::from_millis(1),
    };
    let decode = sampling(entry(5, &[1]), 3);
    let plan = step(1, vec![decode.clone(), decode, entry(0, &[1, 2, 3])]);
    assert_eq!(time.of(&plan), Duration::from_millis(123));
}

#[test]
fn real_time_passes_for_one_step_after_the_other() {
    let mut model = FakeModel::new(FakeModelConfig {
        step_time: StepTime {
            base: Duration::from_millis(20),
            ..StepTime::default()
        },
        pace: Pace::RealTime,
        ..config(1)
    });
    model.acquire(SLOT, BucketId(0)).unwrap();
    let began = Instant::now();
    let first = model.submit(&step(1, vec![entry(0, &[1])])).unwrap();
    let second = model.submit(&step(2, vec![entry(1, &[1])])).unwrap();
    model.wait(first).unwrap();
    model.wait(second).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_block_of_another_prefix_changes_every_later_token() {
    let mut config = config(0);
    config.limits.block_tokens = 2;
    config.limits.store_blocks = 2;
    let mut model = FakeModel::new(config.clone());
    for (slot, prompt, block) in [(SlotId(0), [1, 2, 3, 4], 0), (SlotId(1), [9, 9, 3, 4], 1)] {
        model.acquire(slot, BucketId(0)).unwrap();
        let chunk = PlanEntry {
            slot,
            ..entry(0, &prompt)
        };
        run(&mut model, &step(u64::from(block) + 1, vec![chunk])).unwrap();
        model.copy_out(slot, 2, BlockId(block)).unwrap();
        model.copy_out(slot, 0, BlockId(0)).unwrap();
        model.copy_out(slot, 2, BlockId(1)).unwrap();
        model.release(slot);
    }
    // The store holds both blocks of the second prompt, whose second one has the same ids as the first prompt's.
    model.acquire(SLOT, BucketId(1)).unwrap();
    model.copy_in(SLOT, &[BlockId(0), BlockId(1)]).unwrap();
    let output = run(&mut model, &step(3, vec![sampling(entry(4, &[5]), 0)])).unwrap();
    let token = output.sampled[0].token.unwrap();
    let expected = |prompt: &[TokenId]| config.expected_tokens(prompt, &SamplingParams::default(), 1)[0];
    assert_eq!(token, expected(&[9, 9, 3, 4, 5]));
    assert_ne!(token, expected(&[1, 2, 3, 4, 5]));
}

#[test]
fn only_computed_blocks_are_copied_out_and_only_stored_ones_in() {
    let mut config = config(1);
    config.limits.block_tokens = 2;
    config.limits.store_blocks = 2;
    let mut model = FakeModel::new(config);
    model.acquire(SLOT, BucketId(0)).unwrap();
    assert_breach(model.copy_in(SLOT, &[BlockId(0)]), "holds nothing");
    let ticket = model.submit(&step(1, vec![entry(0, &[1, 2, 3])])).unwrap();
    assert_breach(model.copy_out(SLOT, 0, BlockId(0)), "no computed block");
    model.wait(ticket).unwrap();
    model.copy_out(SLOT, 0, BlockId(0)).unwrap();
    assert_breach(model.copy_out(SLOT, 1, BlockId(0)), "no computed block");
    assert_breach(model.copy_out(SLOT, 2, BlockId(0)), "no computed block");
    assert_breach(model.copy_out(SLOT, 0, BlockId(7)), "does not exist");
    assert_breach(model.copy_in(SLOT, &[BlockId(0)]), "written already");
}

#[test]
fn penalties_need_a_history_and_what_it_holds_changes_the_token() {
    let config = config(0);
    let params = Arc::new(SamplingParams {
        frequency_penalty: 0.5,
        ..SamplingParams::default()
    });
    let mut model = model();
    let mut penalised = sampling(entry(0, &[1, 2]), 0);
    let sample = penalised.sample.as_mut().unwrap();
    sample.params = Arc::clone(&params);
    assert_breach(run(&mut model, &step(1, vec![penalised.clone()])), "penalties");
    let token_with = |generated: &[TokenId]| {
        let mut history = TokenHistory::default();
        history.add_prompt(&[1, 2]);
        generated.iter().for_each(|id| history.add_generated(*id));
        let mut entry = penalised.clone();
        entry.sample.as_mut().unwrap().history = Some(Arc::new(history));
        let mut model = FakeModel::new(config.clone());
        model.acquire(SLOT, BucketId(0)).unwrap();
        run(&mut model, &step(1, vec![entry])).unwrap().sampled[0].token
    };
    let expected = config.expected_tokens(&[1, 2], &params, 1)[0];
    assert_eq!(token_with(&[]), Ok(expected));
    assert_ne!(token_with(&[2]), Ok(expected));
}

#[test]
fn prompt_scores_do_not_depend_on_the_chunks() {
    let config = config(0);
    let prompt = [3, 4, 5, 6];
    let expected = config.expected_prompt_logprobs(&prompt, 2);
    let scoring = |start: u32, ids: &[TokenId], targets: &[TokenId]| PlanEntry {
        score: Some(Score {
            top: 2,
            targets: targets.to_vec(),
        }),
        ..entry(start, ids)
    };
    let mut model = FakeModel::new(config);
    model.acquire(SLOT, BucketId(1)).unwrap();
    let mut scored = Vec::new();
    let chunks = [scoring(0, &[3], &[4]), scoring(1, &[4, 5, 6], &[5, 6])];
    for (number, chunk) in chunks.into_iter().enumerate() {
        let output = run(&mut model, &step(number as u64 + 1, vec![chunk])).unwrap();
        scored.extend(output.scored.into_iter().flat_map(|scored| scored.logprobs));
    }
    assert_eq!((scored.len(), &scored), (3, &expected));
    assert_breach(run(&mut model, &step(3, vec![scoring(4, &[7], &[])])), "targets");
}
