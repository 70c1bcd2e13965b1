use super::*;
use crate::scheduler::StepShape;

/// What steps of `base` milliseconds, 1 ms a decode and 1 ms a prompt token teach.
fn learnt(base: u32) -> StepEstimate {
    let mut estimate = StepEstimate::default();
    for round in 0..200_u32 {
        let shape = StepShape {
            decodes: round % 5,
            prefill_tokens: (round * 37) % 64,
        };
        let millis = base + shape.decodes + shape.prefill_tokens;
        estimate.observe(shape, Duration::from_millis(u64::from(millis)));
    }
    estimate
}

fn rig_with_target(millis: Option<u64>) -> Rig {
    let config = SchedulerConfig {
        decode_step_target: millis.map(Duration::from_millis),
        ..scheduler(64)
    };
    let mut rig = Rig::new(config, fake(limits()));
    rig.estimate = learnt(10);
    rig
}

/// Returns the sizes of a 50-token prompt's chunks beside one decode.
fn chunks(rig: &mut Rig) -> Vec<u32> {
    rig.admit(request(1, 3, 40)).unwrap();
    rig.turn();
    rig.admit(request(2, 50, 2)).unwrap();
    let mut chunks = Vec::new();
    while chunks.iter().sum::<u32>() < 50 {
        chunks.push(rig.turn().unwrap().shape.prefill_tokens);
    }
    chunks
}

#[test]
fn a_prompt_takes_no_more_of_a_step_than_decodes_can_wait_for() {
    assert_eq!(chunks(&mut rig_with_target(None)), [50]);
    assert_eq!(chunks(&mut rig_with_target(Some(30))), [16, 16, 16, 2]);
    assert_eq!(chunks(&mut rig_with_target(Some(45))), [32, 18]);
}

#[test]
fn a_prompt_gets_one_block_or_half_of_the_step_whatever_the_target() {
    assert_eq!(chunks(&mut rig_with_target(Some(1))), [8, 8, 8, 8, 8, 8, 2]);
    let mut rig = rig_with_target(Some(1));
    rig.estimate = learnt(25);
    assert_eq!(chunks(&mut rig)[0], 24);
}

#[test]
fn without_decodes_a_prompt_takes_the_whole_step() {
    let mut rig = rig_with_target(Some(1));
    rig.admit(request(1, 40, 2)).unwrap();
    rig.admit(request(2, 20, 2)).unwrap();
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 40), (2, 20)]);
}

#[test]
fn several_prompts_share_what_is_left() {
    let mut rig = rig_with_target(Some(30));
    rig.admit(request(1, 3, 40)).unwrap();
    rig.turn();
    rig.admit(request(2, 10, 2)).unwrap();
    rig.admit(request(3, 30, 2)).unwrap();
    assert_eq!(lengths(&rig.submit().unwrap()), [(1, 1), (2, 10), (3, 6)]);
    rig.finish_step();
    let shape = StepShape {
        decodes: 2,
        prefill_tokens: 16,
    };
    assert_eq!(rig.scheduler.next_shape(&rig.estimate), Some(shape));
}
