use super::*;
use crate::model::{BucketId, Input, SlotId};
use crate::scheduler::StepShape;

#[test]
fn a_long_prompt_is_prefilled_in_chunks_and_samples_at_its_end() {
    let mut rig = rig();
    rig.admit(request(1, 40, 2)).unwrap();
    let mut chunks = Vec::new();
    for _ in 0..4 {
        let plan = rig.submit().unwrap();
        let entry = &plan.entries[0];
        chunks.push((entry.start, entry.input.len(), entry.sample.is_some()));
        rig.finish_step();
    }
    assert_eq!(chunks, [(0, 16, false), (16, 16, false), (32, 8, true), (40, 1, true)]);
}

#[test]
fn decodes_come_first_and_prompts_share_what_is_left() {
    let mut rig = rig();
    rig.admit(request(1, 3, 20)).unwrap();
    rig.turn();
    rig.admit(request(2, 10, 20)).unwrap();
    rig.admit(request(3, 30, 20)).unwrap();
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 1), (2, 10), (3, 5)]);
    rig.finish_step();
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 1), (2, 1), (3, 14)]);
}

#[test]
fn an_urgent_prompt_overtakes_one_that_is_being_prefilled() {
    let mut rig = rig();
    rig.admit(request(1, 40, 2)).unwrap();
    rig.turn();
    rig.admit(SequenceRequest {
        priority: 1,
        ..request(2, 10, 2)
    })
    .unwrap();
    assert_eq!(lengths(&rig.submit().unwrap()), [(2, 10), (1, 6)]);
}

#[test]
fn a_step_budget_below_the_sequence_limit_starves_no_decode() {
    let mut rig = Rig::new(scheduler(2), fake(limits()));
    for id in 1..=4 {
        rig.admit(request(id, 2, 10)).unwrap();
    }
    let mut finished = 0;
    while let Some(applied) = rig.turn() {
        assert!(rig.plans.len() < 100);
        finished += applied.updates.iter().filter(|update| update.finish.is_some()).count();
    }
    assert_eq!(finished, 4);
    assert!(rig.plans.iter().all(|plan| plan.input_tokens() <= 2));
}

#[test]
fn a_slot_starts_small_and_is_promoted_as_its_sequence_grows() {
    let mut rig = rig();
    rig.admit(request(1, 5, 30)).unwrap();
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!(
        ids,
        rig.config.expected_tokens(&request(1, 5, 30).prompt, &greedy(), 30)
    );
    let (sequence, slot) = (SequenceId(1), SlotId(0));
    let promote = |bucket, written| SlotAction::Promote {
        sequence,
        slot,
        bucket: BucketId(bucket),
        written,
    };
    rig.submit();
    assert_eq!(
        rig.actions,
        [
            SlotAction::Acquire {
                sequence,
                slot,
                bucket: BucketId(0)
            },
            promote(1, 8),
            promote(2, 16),
            promote(3, 32),
            SlotAction::Release { slot },
        ]
    );
    assert_eq!(finish.timings.copied_bytes, 8 + 16 + 32);
}

#[test]
fn a_prompt_starts_in_the_slot_that_holds_all_of_it() {
    let mut rig = rig();
    rig.admit(request(1, 20, 2)).unwrap();
    rig.run_to_end(1);
    assert!(
        matches!(
            rig.actions[0],
            SlotAction::Acquire {
                bucket: BucketId(2),
                ..
            }
        ),
        "{:?}",
        rig.actions
    );
}

#[test]
fn a_step_is_planned_on_an_unread_token_where_the_pipeline_is_deep() {
    let mut rig = rig_of_depth(1);
    rig.admit(request(1, 3, 5)).unwrap();
    rig.submit().unwrap();
    let second = rig.submit().unwrap();
    let entry = &second.entries[0];
    assert_eq!((entry.start, &entry.input), (3, &Input::Pending));
    assert_eq!(entry.sample.as_ref().unwrap().position, 1);
    let (ids, finish) = rig.run_to_end(1);
    assert_eq!(ids, rig.config.expected_tokens(&request(1, 3, 5).prompt, &greedy(), 5));
    assert_eq!(finish.reason, FinishReason::Length);
    assert_eq!(rig.plans.len(), 5, "nothing is planned beyond max_tokens");
}

#[test]
fn without_a_pipeline_nothing_is_planned_on_an_unread_token() {
    let mut rig = rig();
    rig.admit(request(1, 3, 5)).unwrap();
    rig.run_to_end(1);
    let inputs = rig.plans.iter().flat_map(|plan| &plan.entries);
    assert!(inputs.into_iter().all(|entry| entry.input != Input::Pending));
}

#[test]
fn the_next_shape_is_the_open_steps_or_a_bound_on_what_can_be_planned() {
    let mut rig = rig();
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), None);
    rig.admit(request(1, 3, 5)).unwrap();
    rig.admit(request(2, 40, 5)).unwrap();
    let shape = |decodes, prefill_tokens| {
        Some(StepShape {
            decodes,
            prefill_tokens,
        })
    };
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), shape(0, 16));
    rig.submit();
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), shape(0, 16));
    rig.finish_step();
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), shape(1, 15));
    rig.cancel(2);
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), shape(1, 0));
}

#[test]
fn pending_prefill_counts_down_as_prompts_are_computed() {
    for depth in [0, 1] {
        let mut rig = rig_of_depth(depth);
        let pending = |rig: &Rig| rig.scheduler.load().pending_prefill_tokens;
        rig.admit(request(1, 40, 5)).unwrap();
        rig.admit(request(2, 3, 5)).unwrap();
        assert_eq!(pending(&rig), 43);
        rig.submit();
        assert_eq!(pending(&rig), 43, "an open step's tokens are not computed yet");
        rig.finish_step();
        assert_eq!(pending(&rig), 27);
        rig.cancel(1);
        assert_eq!(pending(&rig), 3);
        rig.turn();
        assert_eq!(pending(&rig), 0);
    }
}

#[test]
fn penalties_see_every_token_before_theirs_and_wait_for_it() {
    for depth in [0, 1] {
        let mut rig = rig_of_depth(depth);
        let params = SamplingParams {
            presence_penalty: 1.0,
            ..greedy()
        };
        let prompt = request(1, 4, 9).prompt;
        let expected = rig.config.expected_tokens(&prompt, &params, 12);
        rig.admit(SequenceRequest {
            sampling: Arc::new(params),
            emitted: expected[..3].to_vec(),
            ..request(1, 4, 9)
        })
        .unwrap();
        rig.admit(request(2, 4, 9)).unwrap();
        let (ids, _) = rig.run_to_end(1);
        assert_eq!(ids, expected[3..]);
        let pending = rig.plans.iter().flat_map(|plan| &plan.entries);
        let pending = pending.filter(|entry| entry.input == Input::Pending);
        let who: std::collections::BTreeSet<_> = pending.map(|entry| entry.sequence.0).collect();
        let others = if depth == 0 { vec![] } else { vec![2] };
        assert_eq!(who.into_iter().collect::<Vec<_>>(), others, "depth {depth}");
    }
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}
