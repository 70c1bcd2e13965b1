use super::*;

fn with_store(store_blocks: u32) -> FakeModelConfig {
    fake(ModelLimits {
        max_sequences: 8,
        kv_budget_bytes: 8 * 64,
        block_tokens: 4,
        store_blocks,
        ..limits()
    })
}

fn rig_with_store(store_blocks: u32) -> Rig {
    Rig::new(scheduler(16), with_store(store_blocks))
}

/// A request whose prompt is `shared` and then one token of its own.
fn sharing(id: u64, shared: &[TokenId]) -> SequenceRequest {
    let own = TokenId::try_from(900 + id).unwrap();
    SequenceRequest {
        prompt: shared.iter().copied().chain([own]).collect(),
        ..request(id, 1, 3)
    }
}

fn shared() -> Vec<TokenId> {
    (500..520).collect()
}

fn expected(rig: &Rig, request: &SequenceRequest, n: usize) -> Vec<TokenId> {
    rig.config.expected_tokens(&request.prompt, &request.sampling, n)
}

/// Runs one request alone; returns how many of its prompt tokens were cached.
fn cached(rig: &mut Rig, request: SequenceRequest) -> u32 {
    let id = request.id.0;
    let tokens = expected(rig, &request, usize::try_from(request.max_tokens).unwrap());
    rig.admit(request).unwrap();
    let (ids, finish) = rig.run_to_end(id);
    assert_eq!(ids, tokens);
    finish.timings.cached_tokens
}

#[test]
fn a_prefix_computed_before_is_copied_and_not_computed_again() {
    let mut rig = rig_with_store(16);
    assert_eq!(cached(&mut rig, sharing(1, &shared())), 0);
    rig.plans.clear();
    rig.admit(sharing(2, &shared())).unwrap();
    let (_, finish) = rig.run_to_end(2);
    assert_eq!((finish.timings.cached_tokens, finish.timings.copied_bytes), (20, 20));
    let first = &rig.plans[0].entries[0];
    assert_eq!((first.start, first.input.len()), (20, 1));
}

#[test]
fn one_known_token_is_always_computed() {
    let mut rig = rig_with_store(16);
    let same = |id| SequenceRequest {
        prompt: shared(),
        ..request(id, 1, 2)
    };
    assert_eq!(cached(&mut rig, same(1)), 0);
    assert_eq!(cached(&mut rig, same(2)), 16);
}

#[test]
fn the_answer_before_is_part_of_the_next_turns_prefix() {
    let mut rig = rig_with_store(32);
    let first = SequenceRequest {
        max_tokens: 12,
        ..sharing(1, &shared())
    };
    let mut conversation = first.prompt.clone();
    conversation.extend(expected(&rig, &first, 12));
    assert_eq!(cached(&mut rig, first), 0);
    // 33 tokens, of which the last was chosen and never run: 8 blocks of 4.
    assert_eq!(cached(&mut rig, sharing(2, &conversation)), 32);
}

#[test]
fn other_salts_and_bypassing_requests_share_nothing() {
    let mut rig = rig_with_store(64);
    let salted = |id, salt: &[u8]| SequenceRequest {
        cache_salt: salt.to_vec(),
        ..sharing(id, &shared())
    };
    let bypassing = |id| SequenceRequest {
        bypass_prefix_cache: true,
        ..sharing(id, &shared())
    };
    assert_eq!(cached(&mut rig, bypassing(1)), 0);
    assert_eq!(rig.scheduler.load().cached_blocks, 0, "nothing is written either");
    assert_eq!(cached(&mut rig, salted(2, b"a")), 0);
    assert_eq!(cached(&mut rig, salted(3, b"b")), 0);
    assert_eq!(cached(&mut rig, salted(4, b"a")), 20);
    assert_eq!(cached(&mut rig, bypassing(5)), 0);
}

#[test]
fn a_prompt_to_be_scored_is_computed_whole() {
    let mut rig = rig_with_store(64);
    let scored = |id| SequenceRequest {
        prompt_logprobs: Some(0),
        ..sharing(id, &shared())
    };
    assert_eq!(cached(&mut rig, scored(1)), 0);
    assert_eq!(cached(&mut rig, scored(2)), 0);
    assert_eq!(cached(&mut rig, sharing(3, &shared())), 20);
}

#[test]
fn those_who_share_a_prefix_wait_until_one_has_computed_it() {
    for depth in [0, 1] {
        let mut config = with_store(16);
        config.limits.pipeline_depth = depth;
        let mut rig = Rig::new(scheduler(16), config);
        let other = request(9, 3, 3);
        for request in [1, 2, 3].map(|id| sharing(id, &shared())) {
            rig.admit(request).unwrap();
        }
        rig.admit(other).unwrap();
        assert_eq!(lengths(&rig.submit().unwrap()), [(1, 16)], "depth {depth}");
        let finished = rig.run_all();
        assert_eq!(
            rig.plans[1]
                .entries
                .iter()
                .filter(|entry| entry.sequence.0 == 9)
                .count(),
            1
        );
        for id in 1..=3 {
            let (ids, finish) = &finished[&id];
            assert_eq!(*ids, expected(&rig, &sharing(id, &shared()), 3));
            assert_eq!(finish.timings.cached_tokens, if id == 1 { 0 } else { 20 });
        }
        let computed: usize = rig.plans.iter().map(StepPlan::input_tokens).sum();
        assert_eq!(computed, 21 + 1 + 1 + 3 + 4 * 2, "depth {depth}: the prefix once");
    }
}

#[test]
fn answers_to_one_prompt_share_its_kv() {
    let mut rig = rig_with_store(16);
    for choice_index in 0..4 {
        let sampling = SamplingParams {
            seed: 5,
            choice_index,
            ..SamplingParams::default()
        };
        rig.admit(SequenceRequest {
            prompt: shared(),
            sampling: Arc::new(sampling),
            ..request(u64::from(choice_index), 1, 3)
        })
        .unwrap();
    }
    let cached: Vec<_> = rig
        .run_all()
        .values()
        .map(|(_, finish)| finish.timings.cached_tokens)
        .collect();
    assert_eq!(cached, [0, 16, 16, 16]);
}

#[test]
fn another_one_leads_when_the_leader_is_cancelled() {
    let mut rig = rig_with_store(16);
    for id in 1..=3 {
        rig.admit(sharing(id, &shared())).unwrap();
    }
    rig.turn();
    assert_eq!(rig.scheduler.load().waiting, 2);
    rig.cancel(1);
    let plan = rig.submit().unwrap();
    assert_eq!(lengths(&plan), [(2, 5)], "what the first one had computed is a hit");
    rig.finish_step();
    assert_eq!(lengths(&rig.submit().unwrap()), [(2, 1), (3, 1)]);
    rig.finish_step();
    assert_eq!(rig.run_all().len(), 2);
    assert_eq!(rig.scheduler.promises.len(), 0);
}

#[test]
fn another_one_may_lead_when_the_leader_is_preempted() {
    let mut rig = rig_with_store(16);
    rig.admit(sharing(1, &shared())).unwrap();
    rig.turn();
    let leader = rig.scheduler.running[0].turn;
    assert_eq!(rig.scheduler.promises.len(), 1, "the last block of five");
    rig.scheduler.preempt(leader);
    rig.perform_rest();
    assert_eq!(rig.scheduler.promises.len(), 0);
    rig.admit(SequenceRequest {
        priority: 1,
        ..sharing(2, &shared())
    })
    .unwrap();
    assert_eq!(
        lengths(&rig.submit().unwrap()),
        [(2, 5)],
        "the first is held for the second"
    );
    rig.finish_step();
    assert_eq!(lengths(&rig.submit().unwrap()), [(2, 1), (1, 1)]);
    rig.finish_step();
    rig.run_all();
}

#[test]
fn nobody_waits_for_a_prefix_that_finds_no_place() {
    let mut rig = rig_with_store(1);
    for id in 1..=2 {
        rig.admit(sharing(id, &shared())).unwrap();
    }
    rig.turn();
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 5), (2, 11)]);
}

#[test]
fn a_failed_copy_costs_time_and_nothing_else() {
    for every in 2..=7 {
        let mut config = with_store(16);
        config.faults.no_memory_every = Some(every);
        let mut rig = Rig::new(scheduler(16), config);
        for id in 1..=6 {
            let request = sharing(id, &shared());
            let tokens = expected(&rig, &request, 3);
            rig.admit(request).unwrap();
            assert_eq!(rig.run_to_end(id).0, tokens, "every {every}th call fails");
        }
        assert_eq!(rig.scheduler.cache.pins(), 0);
    }
}

#[test]
fn few_blocks_of_answers_are_saved_in_one_step() {
    let mut config = with_store(200);
    config.limits.max_sequences = 8;
    let mut rig = Rig::new(scheduler(64), config);
    for id in 1..=8 {
        rig.admit(request(id, 7, 40)).unwrap();
    }
    rig.turn();
    let mut most = 0;
    while rig.scheduler.load().running == 8 {
        rig.actions.clear();
        rig.turn();
        let is_copy = |action: &&SlotAction| matches!(action, SlotAction::CopyOut { .. });
        if rig.scheduler.load().running == 8 {
            most = most.max(rig.actions.iter().filter(is_copy).count());
        }
    }
    assert_eq!(most, 5, "all eight fill a block in the same step");
}

#[test]
fn frames_tell_what_can_be_hit() {
    let mut rig = rig_with_store(5);
    rig.admit(sharing(1, &shared())).unwrap();
    rig.turn();
    let (added, evicted) = rig.scheduler.take_block_changes();
    assert_eq!((added.len(), evicted.len()), (4, 0), "the blocks of the first chunk");
    rig.run_all();
    rig.scheduler.take_block_changes();
    let other: Vec<TokenId> = (600..612).collect();
    cached(&mut rig, sharing(2, &other));
    let (added, evicted) = rig.scheduler.take_block_changes();
    assert_eq!((added.len(), evicted.len()), (3, 3));
    let load = rig.scheduler.load();
    assert_eq!((load.cached_blocks, load.store_blocks), (5, 5));
    rig.scheduler.restate_blocks();
    assert_eq!(rig.scheduler.take_block_changes().0.len(), 5);
}
