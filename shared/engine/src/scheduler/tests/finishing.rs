use super::*;
use crate::model::{BucketId, Sampled, StepOutput};

fn fake_that_ends(end_probability: f64) -> FakeModelConfig {
    FakeModelConfig {
        end_probability,
        ..fake(limits())
    }
}

fn with_params(request: SequenceRequest, change: impl FnOnce(&mut SamplingParams)) -> SequenceRequest {
    let mut params = SamplingParams::clone(&request.sampling);
    change(&mut params);
    SequenceRequest {
        sampling: Arc::new(params),
        ..request
    }
}

#[test]
fn an_end_token_stops_and_is_the_last_id() {
    let mut rig = Rig::new(scheduler(16), fake_that_ends(1.0));
    rig.admit(request(1, 4, 9)).unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!((ids, finish.reason), (vec![END], FinishReason::Stop));
}

#[test]
fn no_end_token_comes_below_min_tokens() {
    let mut rig = Rig::new(scheduler(16), fake_that_ends(1.0));
    rig.admit(with_params(request(1, 4, 9), |params| params.min_tokens = 3))
        .unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!((ids.len(), ids[3], finish.reason), (4, END, FinishReason::Stop));
    let forbidden = |plan: &StepPlan| plan.entries[0].sample.clone().unwrap().forbidden.to_vec();
    let forbidden: Vec<_> = rig.plans.iter().map(forbidden).collect();
    assert_eq!(forbidden, [vec![END], vec![END], vec![END], vec![]]);
}

#[test]
fn an_ignored_end_token_does_not_stop_but_a_stop_id_does() {
    let mut rig = Rig::new(scheduler(16), fake_that_ends(1.0));
    let ignoring = with_params(request(1, 4, 9), |params| params.ignore_eos = true);
    rig.admit(ignoring.clone()).unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!((ids, finish.reason), (vec![END; 9], FinishReason::Length));
    rig.admit(SequenceRequest {
        stop_ids: vec![END],
        ..ignoring
    })
    .unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!((ids, finish.reason), (vec![END], FinishReason::Stop));
}

#[test]
fn the_context_ends_a_sequence_by_length() {
    let mut rig = rig();
    rig.admit(request(1, 60, 1000)).unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!((ids.len(), finish.reason), (4, FinishReason::Length));
}

#[test]
fn a_replay_continues_where_the_first_attempt_was_cut() {
    for depth in [0, 1] {
        let mut rig = rig_of_depth(depth);
        let whole = request(1, 4, 12);
        let expected = rig.config.expected_tokens(&whole.prompt, &whole.sampling, 12);
        rig.admit(SequenceRequest {
            emitted: expected[..5].to_vec(),
            max_tokens: 7,
            ..whole
        })
        .unwrap();
        let first = rig.turn().unwrap().updates.remove(0);
        assert_eq!((first.start_index, &first.ids[..]), (5, &expected[5..6]));
        assert_eq!(rig.plans[0].entries[0].sample.as_ref().unwrap().position, 5);
        let (ids, finish) = rig.run_to_end(1);
        assert_eq!((&ids[..], finish.reason), (&expected[6..], FinishReason::Length));
    }
}

#[test]
fn emitted_tokens_count_towards_min_tokens() {
    let mut rig = Rig::new(scheduler(16), fake_that_ends(1.0));
    let request = with_params(request(1, 4, 9), |params| params.min_tokens = 3);
    rig.admit(SequenceRequest {
        emitted: vec![50, 51],
        ..request
    })
    .unwrap();
    let (ids, _) = rig.run_to_end(1);
    assert_eq!((ids.len(), ids[1]), (2, END));
}

#[test]
fn a_cancelled_sequence_is_in_no_later_plan_and_its_token_is_wasted() {
    for depth in [0, 1] {
        let mut rig = rig_of_depth(depth);
        rig.admit(request(1, 4, 40)).unwrap();
        rig.admit(request(2, 4, 40)).unwrap();
        rig.turn();
        rig.turn();
        let open = rig.open.len();
        let planned = rig.plans.len();
        assert_eq!(reason(rig.cancel(1)), Some(FinishReason::Cancelled));
        assert_eq!(reason(rig.cancel(1)), None);
        let mut wasted = 0;
        for _ in 0..3 {
            let applied = rig.turn().unwrap();
            wasted += applied.wasted_tokens;
            assert!(applied.updates.iter().all(|update| update.id == SequenceId(2)));
        }
        let later = rig.plans[planned..].iter().flat_map(|plan| &plan.entries);
        assert!(later.into_iter().all(|entry| entry.sequence == SequenceId(2)));
        assert_eq!(usize::try_from(wasted).unwrap(), open, "depth {depth}");
        assert_eq!(rig.model.held_slots(), 1);
    }
}

#[test]
fn a_token_computed_past_a_stop_is_wasted() {
    let limits = ModelLimits {
        pipeline_depth: 1,
        ..limits()
    };
    let mut rig = Rig::new(
        scheduler(16),
        FakeModelConfig {
            limits,
            ..fake_that_ends(1.0)
        },
    );
    rig.admit(request(1, 4, 40)).unwrap();
    let first = rig.turn().unwrap();
    assert_eq!((first.updates[0].ids.len(), first.wasted_tokens), (1, 0));
    let second = rig.turn().unwrap();
    assert_eq!((second.updates.len(), second.wasted_tokens), (0, 1));
    assert!(rig.scheduler.is_idle());
}

#[test]
fn logits_that_are_not_finite_end_one_sequence_alone() {
    for depth in [0, 1] {
        let mut rig = rig_of_depth(depth);
        rig.config.faults = FakeFaults {
            not_finite_after: Some(101),
            ..FakeFaults::default()
        };
        rig.model = FakeModel::new(rig.config.clone());
        rig.admit(request(1, 4, 5)).unwrap();
        rig.admit(request(2, 4, 5)).unwrap();
        let update = rig.turn().unwrap().updates.remove(0);
        let finish = update.finish.unwrap();
        assert_eq!((update.id, finish.reason), (SequenceId(1), FinishReason::Error));
        assert!(finish.message.unwrap().contains("not finite"));
        let (_, finish) = rig.run_to_end(2);
        assert_eq!(finish.reason, FinishReason::Length);
    }
}

#[test]
fn a_slot_without_memory_ends_one_sequence_alone() {
    for (bucket, prompt_tokens) in [(2, 20), (2, 14)] {
        let mut config = fake(limits());
        config.faults.no_memory_for_bucket = Some(BucketId(bucket));
        let mut rig = Rig::new(scheduler(40), config);
        rig.admit(request(1, prompt_tokens, 10)).unwrap();
        rig.admit(request(2, 2, 3)).unwrap();
        let mut ended = Vec::new();
        while let Some(applied) = rig.turn() {
            ended.extend(applied.updates.into_iter().filter(|update| update.finish.is_some()));
        }
        ended.append(&mut rig.ended);
        ended.sort_by_key(|update| update.id);
        let reasons: Vec<_> = ended.into_iter().map(|update| reason(Some(update))).collect();
        assert_eq!(reasons, [Some(FinishReason::Error), Some(FinishReason::Length)]);
        assert!(rig.scheduler.is_idle());
        rig.submit();
        assert_eq!((rig.model.held_slots(), rig.scheduler.load().kv_used_bytes), (0, 0));
    }
}

#[test]
fn a_failed_step_ends_its_sequences_and_no_others() {
    let mut rig = rig();
    rig.admit(request(1, 16, 5)).unwrap();
    rig.admit(request(2, 16, 5)).unwrap();
    let plan = rig.submit().unwrap();
    let ended = rig.scheduler.fail_step(plan.step, "broken", rig.now);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].id, SequenceId(1));
    assert_eq!(ended[0].finish.as_ref().unwrap().message.as_deref(), Some("broken"));
    assert_eq!(rig.scheduler.load().waiting, 1);
}

#[test]
fn an_answer_to_another_plan_is_refused() {
    let mut rig = rig();
    rig.admit(request(1, 4, 5)).unwrap();
    rig.submit().unwrap();
    let other = StepOutput {
        sampled: vec![Sampled {
            sequence: SequenceId(9),
            token: Ok(3),
            logprobs: None,
        }],
        scored: Vec::new(),
    };
    for output in [other, StepOutput::default()] {
        assert!(rig.scheduler.apply(output, rig.now).is_err());
    }
    assert_eq!(rig.finish_step().updates[0].id, SequenceId(1));
}

#[test]
fn log_probabilities_come_with_the_tokens_where_they_were_asked_for() {
    let mut rig = rig();
    rig.admit(with_params(request(1, 4, 2), |params| params.logprobs = Some(2)))
        .unwrap();
    rig.admit(request(2, 4, 2)).unwrap();
    let updates = rig.turn().unwrap().updates;
    assert_eq!(updates[0].logprobs[0].top.len(), 2);
    assert!(updates[1].logprobs.is_empty());
}

#[test]
fn the_receipt_says_where_the_time_went() {
    let config = SchedulerConfig {
        max_sequences: 1,
        ..scheduler(16)
    };
    let mut rig = Rig::new(config, fake(limits()));
    rig.admit(request(1, 4, 3)).unwrap();
    rig.admit(request(2, 40, 5)).unwrap();
    let (_, finish) = rig.run_to_end(2);
    let timings = finish.timings;
    let millis = |duration: Duration| duration.as_millis();
    assert_eq!(
        (millis(timings.waiting), millis(timings.prefill), millis(timings.decode)),
        (3, 3, 4)
    );
    assert_eq!((timings.prefill_chunks, timings.steps, timings.max_batch), (3, 7, 1));
    assert!((timings.mean_batch - 1.0).abs() < 1e-6);
}

#[test]
fn a_sequence_cancelled_while_it_waits_has_only_waited() {
    let mut rig = rig();
    rig.admit(request(1, 4, 3)).unwrap();
    rig.now += Duration::from_millis(7);
    let finish = rig.cancel(1).unwrap().finish.unwrap();
    assert_eq!(finish.timings.waiting, Duration::from_millis(7));
    assert_eq!((finish.timings.prefill, finish.timings.steps), (Duration::ZERO, 0));
    assert!(rig.scheduler.is_idle());
}
