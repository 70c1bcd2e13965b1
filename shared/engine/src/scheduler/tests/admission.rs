use super::*;

#[test]
fn what_can_never_run_is_refused_with_a_reason() {
    let limits = ModelLimits {
        kv_budget_bytes: 32,
        ..limits()
    };
    let mut rig = Rig::new(scheduler(16), fake(limits));
    let cases = [
        (request(1, 0, 1), Reject::EmptyPrompt),
        (request(1, 1, 0), Reject::NothingToGenerate),
        (
            request(1, 64, 1),
            Reject::ContextExceeded {
                tokens: 64,
                context_tokens: 64,
            },
        ),
        (
            request(1, 20, 20),
            Reject::KvExceeded {
                needed_bytes: 64,
                budget_bytes: 32,
            },
        ),
    ];
    for (request, reject) in cases {
        assert_eq!(rig.admit(request), Err(reject));
    }
    assert!(rig.scheduler.is_idle());
}

#[test]
fn emitted_tokens_count_against_the_context() {
    let request = SequenceRequest {
        emitted: vec![5; 54],
        ..request(1, 10, 1)
    };
    let reject = Reject::ContextExceeded {
        tokens: 64,
        context_tokens: 64,
    };
    assert_eq!(rig().admit(request), Err(reject));
}

#[test]
fn a_live_id_is_not_admitted_again() {
    let mut rig = rig();
    rig.admit(request(1, 4, 2)).unwrap();
    assert_eq!(rig.admit(request(1, 4, 2)), Err(Reject::DuplicateId(SequenceId(1))));
    rig.turn();
    assert_eq!(rig.admit(request(1, 4, 2)), Err(Reject::DuplicateId(SequenceId(1))));
    rig.run_to_end(1);
    assert_eq!(rig.admit(request(1, 4, 2)), Ok(()));
}

#[test]
fn the_queue_of_waiting_sequences_is_bounded() {
    let config = SchedulerConfig {
        max_waiting: 2,
        ..scheduler(16)
    };
    let mut rig = Rig::new(config, fake(limits()));
    rig.admit(request(1, 4, 2)).unwrap();
    rig.admit(request(2, 4, 2)).unwrap();
    assert_eq!(
        rig.admit(request(3, 4, 2)),
        Err(Reject::TooManyWaiting { max_waiting: 2 })
    );
    rig.turn();
    assert_eq!(rig.admit(request(3, 4, 2)), Ok(()));
}

#[test]
fn a_sequence_waits_for_kv_and_a_smaller_one_behind_it_does_not_slip_past() {
    let limits = ModelLimits {
        kv_budget_bytes: 64,
        ..limits()
    };
    let mut rig = Rig::new(scheduler(16), fake(limits));
    rig.admit(request(1, 20, 5)).unwrap();
    rig.admit(request(2, 40, 4)).unwrap();
    rig.admit(request(3, 4, 2)).unwrap();
    rig.submit();
    rig.finish_step();
    let plan = rig.submit().unwrap();
    assert_eq!(lengths(&plan), [(1, 4)]);
    rig.finish_step();
    let load = rig.scheduler.load();
    assert_eq!((load.running, load.waiting, load.kv_used_bytes), (1, 2, 32));
    let (ids, finish) = rig.run_to_end(3);
    assert_eq!((ids.len(), finish.reason), (2, FinishReason::Length));
    assert!(rig.scheduler.is_idle());
    assert_eq!(rig.scheduler.load().kv_used_bytes, 0);
}

#[test]
fn a_sequence_takes_the_kv_of_what_is_known_and_not_of_what_it_may_become() {
    let limits = ModelLimits {
        kv_budget_bytes: 64,
        ..limits()
    };
    let mut rig = Rig::new(scheduler(16), fake(limits));
    for id in 1..=4 {
        rig.admit(request(id, 4, 50)).unwrap();
    }
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!(rig.scheduler.load().kv_used_bytes, 4 * 8);
}

#[test]
fn higher_priority_starts_first_and_equals_in_order_of_arrival() {
    let config = SchedulerConfig {
        max_sequences: 1,
        ..scheduler(16)
    };
    let mut rig = Rig::new(config, fake(limits()));
    for (id, priority) in [(1, 0), (2, -1), (3, 7), (4, 0), (5, 7)] {
        rig.admit(SequenceRequest {
            priority,
            ..request(id, 3, 2)
        })
        .unwrap();
    }
    while rig.turn().is_some() {}
    let started = rig.actions.iter().filter_map(|action| match action {
        SlotAction::Acquire { sequence, .. } => Some(sequence.0),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), [3, 5, 1, 4, 2]);
}

#[test]
fn the_lowest_free_slot_goes_first() {
    let mut rig = rig();
    for id in 1..=3 {
        rig.admit(request(id, 2, 30)).unwrap();
    }
    rig.turn();
    rig.cancel(1);
    rig.cancel(2);
    rig.turn();
    rig.admit(request(4, 2, 2)).unwrap();
    let plan = rig.submit().unwrap();
    let slot = plan.entries.iter().find(|entry| entry.sequence.0 == 4).unwrap().slot;
    assert_eq!(slot.0, 0);
}
