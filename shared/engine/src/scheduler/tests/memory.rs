use super::*;

fn rig_of_bytes(kv_budget_bytes: u64, pipeline_depth: u32) -> Rig {
    let limits = ModelLimits {
        kv_budget_bytes,
        pipeline_depth,
        ..limits()
    };
    Rig::new(scheduler(32), fake(limits))
}

fn expected(rig: &Rig, request: &SequenceRequest) -> Vec<TokenId> {
    let n = usize::try_from(request.max_tokens).unwrap();
    rig.config.expected_tokens(&request.prompt, &request.sampling, n)
}

/// Runs all of these to their ends, checks their tokens and returns how often each was preempted.
fn preemptions(rig: &mut Rig, requests: &[SequenceRequest]) -> Vec<u32> {
    for request in requests {
        rig.admit(request.clone()).unwrap();
    }
    let finished = rig.run_all();
    let check = |request: &SequenceRequest| {
        let (ids, finish) = &finished[&request.id.0];
        assert_eq!(*ids, expected(rig, request), "sequence {}", request.id);
        finish.timings.preemptions
    };
    requests.iter().map(check).collect()
}

#[test]
fn the_newest_sequence_gives_way_and_finishes_later_with_the_same_tokens() {
    for depth in [0, 1] {
        let mut rig = rig_of_bytes(64, depth);
        let requests = [1, 2, 3].map(|id| request(id, 10, 14));
        let preempted = preemptions(&mut rig, &requests);
        assert_eq!(preempted[0], 0, "depth {depth}");
        assert!(preempted[2] > 0, "depth {depth}: {preempted:?}");
        assert_eq!(rig.scheduler.load().kv_used_bytes, 0);
    }
}

#[test]
fn the_lowest_priority_gives_way_before_the_latest_arrival() {
    let mut rig = rig_of_bytes(64, 0);
    let requests = [(1, 0), (2, 5), (3, 5)].map(|(id, priority)| SequenceRequest {
        priority,
        ..request(id, 10, 14)
    });
    let preempted = preemptions(&mut rig, &requests);
    assert!(preempted[0] > 0, "{preempted:?}");
    assert_eq!(preempted[1], 0);
}

#[test]
fn nobody_starts_in_a_step_that_preempted() {
    let mut rig = rig_of_bytes(64, 0);
    for id in 1..=4 {
        rig.admit(request(id, 10, 14)).unwrap();
    }
    let mut seen = 0;
    while !rig.scheduler.is_idle() {
        rig.actions.clear();
        rig.turn();
        let first = |wanted: fn(&SlotAction) -> bool| rig.actions.iter().position(wanted);
        let released = first(|action| matches!(action, SlotAction::Release { .. }));
        let promoted = first(|action| matches!(action, SlotAction::Promote { .. }));
        let acquired = first(|action| matches!(action, SlotAction::Acquire { .. }));
        if released.is_some_and(|released| promoted.is_some_and(|promoted| released < promoted)) {
            seen += 1;
            assert_eq!(acquired, None, "{:?}", rig.actions);
        }
    }
    assert!(seen > 0, "nobody was preempted for a promotion");
}

#[test]
fn the_room_for_the_move_counts() {
    // 32 and 64 bytes do not fit side by side: the only sequence is computed again in the longer slot.
    let mut rig = rig_of_bytes(64, 0);
    let preempted = preemptions(&mut rig, &[request(1, 30, 10)]);
    assert_eq!(preempted, [1]);
    let mut rig = rig_of_bytes(96, 0);
    let preempted = preemptions(&mut rig, &[request(1, 30, 10)]);
    assert_eq!(preempted, [0]);
}

#[test]
fn a_sequence_preempted_often_enough_keeps_a_slot_for_its_whole_length() {
    for max_preemptions in 0..=3 {
        let config = SchedulerConfig {
            max_preemptions,
            ..scheduler(32)
        };
        let limits = ModelLimits {
            kv_budget_bytes: 64,
            ..limits()
        };
        let mut rig = Rig::new(config, fake(limits));
        let requests = [1, 2, 3, 4].map(|id| request(id, 4, 50));
        let preempted = preemptions(&mut rig, &requests);
        assert!(
            preempted.iter().all(|times| *times <= max_preemptions),
            "{preempted:?} with {max_preemptions}"
        );
        assert!(preempted.contains(&max_preemptions), "{preempted:?}");
    }
}

#[test]
fn what_a_preempted_sequence_computed_is_a_hit_when_it_goes_on() {
    let mut rig = rig_of_bytes(64, 0);
    rig.config.limits.block_tokens = 4;
    rig.config.limits.store_blocks = 32;
    rig = Rig::new(scheduler(32), rig.config);
    let requests = [1, 2, 3].map(|id| request(id, 10, 14));
    let preempted = preemptions(&mut rig, &requests);
    assert!(preempted[2] > 0);
    let computed: usize = rig.plans.iter().map(StepPlan::input_tokens).sum();
    // Each sequence's 23 positions, and at most a block for each time one was computed again.
    let again: u32 = preempted.iter().sum();
    assert!(
        computed <= 3 * 23 + 4 * usize::try_from(again).unwrap(),
        "{computed} tokens computed, {again} preemptions"
    );
}

#[test]
fn a_preempted_sequence_is_replayed_with_what_was_emitted_before() {
    for depth in [0, 1] {
        let mut rig = rig_of_bytes(64, depth);
        let whole = request(3, 10, 14);
        let tokens = expected(&rig, &whole);
        for id in 1..=2 {
            rig.admit(request(id, 10, 14)).unwrap();
        }
        rig.admit(SequenceRequest {
            emitted: tokens[..4].to_vec(),
            max_tokens: 10,
            ..whole
        })
        .unwrap();
        let (ids, finish) = rig.run_to_end(3);
        assert_eq!(ids, tokens[4..]);
        assert!(finish.timings.preemptions > 0, "depth {depth}");
    }
}

#[test]
fn memory_that_is_short_for_a_while_ends_nobody() {
    for every in 2..=9 {
        for depth in [0, 1] {
            let mut rig = rig_of_bytes(96, depth);
            rig.config.faults.no_memory_every = Some(every);
            rig.model = FakeModel::new(rig.config.clone());
            let requests = [1, 2, 3, 4].map(|id| request(id, 6, 20));
            preemptions(&mut rig, &requests);
            assert_eq!(rig.model.held_slots(), 0);
        }
    }
}
