//! What is known before the first step, and what a session is told first.

use super::*;
use crate::scheduler::StepShape;

fn engine_of(model: FakeModelConfig) -> Engine<FakeModel> {
    Engine::new(EngineConfig::default(), FakeModel::new(model))
}

#[test]
fn a_warm_engine_knows_how_long_steps_take_and_holds_nothing() {
    let mut model = slow();
    model.step_time.per_prefill_token = Duration::from_micros(100);
    model.limits.max_sequences = 4;
    let shape = |decodes, prefill_tokens| StepShape {
        decodes,
        prefill_tokens,
    };
    let mut engine = engine_of(model);
    let warm_up = engine.warm_up(SchedulerConfig::default()).unwrap().unwrap();
    assert_eq!((warm_up.batch, engine.model.held_slots()), (4, 0));
    assert!(warm_up.decode_step >= Duration::from_millis(2));
    assert!(warm_up.batch_decode_step >= Duration::from_millis(2));
    assert!((1.0..10_000.0).contains(&warm_up.prefill_tokens_per_s));
    assert!(engine.estimate.expect(shape(0, 512)) >= Duration::from_millis(40));
    engine.admit(request(1, 3));
    while engine.submit_next().unwrap() {
        let step = engine.submitted.pop_front().unwrap();
        assert!(step.step > warm_up.steps);
        engine.complete(step).unwrap();
    }
    assert!(engine.is_idle());
}

#[test]
fn a_model_that_cannot_run_a_step_is_not_ready() {
    let mut model = FakeModelConfig::default();
    model.faults.fail_wait_at_step = Some(2);
    let config = EngineConfig {
        warm_up: true,
        ..EngineConfig::default()
    };
    let mut engine = Engine::spawn(config, move || Ok::<_, Infallible>(FakeModel::new(model))).unwrap();
    let error = engine.wait_loaded(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Model { step: 2, .. }), "{error:?}");
}

#[test]
fn any_model_can_be_warmed_up() {
    for (bucket_tokens, budget_tokens, max_step_tokens) in [
        (vec![8], 8, 512),
        (vec![64], 64, 512),
        (vec![16, 64, 256], 64, 512),
        (vec![64, 256, 1024], 2000, 100),
        (vec![64, 2048], 100_000, 1),
    ] {
        let mut model = FakeModelConfig::default();
        model.limits.context_tokens = *bucket_tokens.last().unwrap();
        model.limits.bucket_tokens = bucket_tokens.clone();
        model.limits.kv_budget_bytes = budget_tokens * model.limits.kv_bytes_per_token;
        let config = SchedulerConfig {
            max_step_tokens,
            ..SchedulerConfig::default()
        };
        let mut engine = engine_of(model);
        let warm_up = engine.warm_up(config).unwrap();
        assert_eq!(warm_up.is_some(), bucket_tokens != [8], "{bucket_tokens:?}");
        assert_eq!(engine.model.held_slots(), 0);
    }
}

#[test]
fn a_long_first_step_is_announced_before_it_ends() {
    for (step_ms, announced) in [(2000, 1), (20, 0)] {
        let mut engine = engine_of(FakeModelConfig::default());
        let shape = StepShape {
            decodes: 0,
            prefill_tokens: 30,
        };
        for _ in 0..20 {
            engine.estimate.observe(shape, Duration::from_millis(step_ms));
        }
        let (sender, frames) = sync_channel(10);
        let id = SessionId::default();
        let sink = Box::new(ChannelSink(sender));
        engine.session = Some(Session { id, sink });
        engine.admit(request(1, 2));
        assert!(engine.submit_next().unwrap());
        engine.announce_long_step();
        engine.announce_long_step();
        let early: Vec<_> = frames.try_iter().collect();
        assert_eq!(early.len(), announced);
        for frame in early {
            assert_eq!((frame.step, &frame.accepted[..]), (0, &[SequenceId(1)][..]));
            assert!(frame.next_step_expected.unwrap() > Duration::from_secs(1));
        }
    }
}

#[test]
fn a_new_session_is_told_all_that_can_be_hit() {
    let mut model = FakeModelConfig::default();
    model.limits.store_blocks = 8;
    let engine = spawn(model);
    let blocks = |story: &Story| -> Vec<_> {
        let frames = story.frames.iter();
        frames.flat_map(|frame| frame.blocks_added.clone()).collect()
    };
    let (first, frames) = attach(&engine, 1000);
    first.admit(request(1, 20)).unwrap();
    let told = blocks(&Story::until(&frames, |story| story.finishes.len() == 1));
    assert_eq!(told.len(), 3);
    let (second, frames) = attach(&engine, 1000);
    second.admit(request(1, 1)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    let again = blocks(&story);
    assert!(told.iter().all(|name| again.contains(name)));
    assert_eq!(story.finishes[&1].timings.cached_tokens, 16);
    assert_eq!(story.frames.last().unwrap().load.cached_blocks, 3);
}
