//! The loop on its thread, over the fake model.

mod warm_up;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use kr_contract::{FinishReason, SamplingParams, SequenceId, TokenId};

use super::*;
use crate::fake::{FakeFaults, FakeModel, FakeModelConfig, Pace, StepTime};
use crate::frame::{Finish, StepFrame};
use crate::model::BucketId;
use crate::{CommandError, Reject};

const PATIENCE: Duration = Duration::from_secs(20);

struct ChannelSink(SyncSender<StepFrame>);

impl FrameSink for ChannelSink {
    fn try_deliver(&mut self, frame: StepFrame) -> Result<(), SinkFull> {
        self.0.try_send(frame).map_err(|_| SinkFull)
    }
}

fn spawn(model: FakeModelConfig) -> EngineThread {
    let load = move || Ok::<_, Infallible>(FakeModel::new(model));
    let mut engine = Engine::spawn(EngineConfig::default(), load).unwrap();
    engine.wait_loaded(PATIENCE).unwrap();
    engine
}

fn attach(engine: &EngineThread, frames: usize) -> (EngineSession, Receiver<StepFrame>) {
    let (sender, receiver) = sync_channel(frames);
    let session = engine.handle().attach(Box::new(ChannelSink(sender))).unwrap();
    (session, receiver)
}

fn request(id: u64, max_tokens: u32) -> SequenceRequest {
    let first = TokenId::try_from(id * 100).unwrap();
    SequenceRequest::new(SequenceId(id), (first..first + 30).collect(), max_tokens)
}

fn endless(id: u64) -> SequenceRequest {
    request(id, 1_000_000)
}

/// A model whose steps take a moment, so that a sequence is still running when the next command arrives.
fn slow() -> FakeModelConfig {
    FakeModelConfig {
        step_time: StepTime {
            base: Duration::from_millis(2),
            ..StepTime::default()
        },
        pace: Pace::RealTime,
        ..FakeModelConfig::default()
    }
}

/// Everything said about each sequence.
#[derive(Default)]
struct Story {
    frames: Vec<StepFrame>,
    ids: BTreeMap<u64, Vec<TokenId>>,
    finishes: BTreeMap<u64, Finish>,
}

impl Story {
    fn read(&mut self, frame: StepFrame) {
        for update in &frame.sequences {
            let ids = self.ids.entry(update.id.0).or_default();
            assert_eq!(usize::try_from(update.start_index).unwrap(), ids.len());
            ids.extend(&update.ids);
            if let Some(finish) = &update.finish {
                assert!(self.finishes.insert(update.id.0, finish.clone()).is_none());
            }
        }
        self.frames.push(frame);
    }

    fn until(frames: &Receiver<StepFrame>, done: impl Fn(&Self) -> bool) -> Self {
        let mut story = Self::default();
        while !done(&story) {
            story.read(frames.recv_timeout(PATIENCE).unwrap());
        }
        story
    }

    fn reason(&self, id: u64) -> Option<FinishReason> {
        self.finishes.get(&id).map(|finish| finish.reason)
    }
}

/// Returns whether the sender of this channel is dropped, once what lies in it is read.
fn closes(frames: &Receiver<StepFrame>) -> bool {
    loop {
        match frames.recv_timeout(PATIENCE) {
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

#[test]
fn sequences_are_accepted_answered_and_finished() {
    for pipeline_depth in [0, 1] {
        let mut model = FakeModelConfig::default();
        model.limits.pipeline_depth = pipeline_depth;
        let engine = spawn(model.clone());
        let (session, frames) = attach(&engine, 1000);
        for id in 1..=8 {
            session.admit(request(id, 20)).unwrap();
        }
        let story = Story::until(&frames, |story| story.finishes.len() == 8);
        for id in 1..=8 {
            let expected = model.expected_tokens(&request(id, 20).prompt, &SamplingParams::default(), 20);
            assert_eq!(story.ids[&id], expected);
            assert_eq!(story.reason(id), Some(FinishReason::Length));
        }
        let accepted: Vec<_> = story
            .frames
            .iter()
            .flat_map(|frame| &frame.accepted)
            .map(|id| id.0)
            .collect();
        assert_eq!(accepted, [1, 2, 3, 4, 5, 6, 7, 8]);
        let steps: Vec<_> = story.frames.iter().map(|frame| frame.step).collect();
        assert_eq!(
            steps,
            (1..=steps.len() as u64).collect::<Vec<_>>(),
            "one frame per step, no other"
        );
        drop(session);
        engine.join().unwrap();
    }
}

#[test]
fn a_frame_announces_the_next_step_as_long_as_there_is_one() {
    let engine = spawn(FakeModelConfig::default());
    let (session, frames) = attach(&engine, 1000);
    session.admit(request(1, 3)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    let expected: Vec<_> = story
        .frames
        .iter()
        .map(|frame| frame.next_step_expected.is_some())
        .collect();
    assert_eq!(expected, [true, true, false]);
    assert_eq!(story.frames[0].planned_tokens, 30);
    assert_eq!(story.frames[1].planned_tokens, 1);
    assert_eq!(story.frames[2].load.running, 0);
    assert_eq!(story.frames[0].load.running, 1);
}

#[test]
fn a_reject_is_reported_without_a_step() {
    let engine = spawn(FakeModelConfig::default());
    let (session, frames) = attach(&engine, 10);
    session.admit(request(1, 0)).unwrap();
    let frame = frames.recv_timeout(PATIENCE).unwrap();
    assert_eq!((frame.step, frame.planned_tokens), (0, 0));
    assert_eq!(frame.rejected, [(SequenceId(1), Reject::NothingToGenerate)]);
    assert_eq!(frame.next_step_expected, None);
}

#[test]
fn a_cancelled_sequence_ends_and_its_neighbour_goes_on() {
    let model = slow();
    let engine = spawn(model.clone());
    let (session, frames) = attach(&engine, 10_000);
    session.admit(request(1, 1000)).unwrap();
    session.admit(request(2, 50)).unwrap();
    Story::until(&frames, |story| story.ids.contains_key(&1));
    session.cancel(SequenceId(1)).unwrap();
    session.cancel(SequenceId(77)).unwrap();
    let mut story = Story::default();
    while story.finishes.len() < 2 {
        // The tokens before are read already, so indexes do not start at 0 here.
        let frame = frames.recv_timeout(PATIENCE).unwrap();
        let ends = frame
            .sequences
            .iter()
            .filter_map(|update| Some((update.id.0, update.finish.clone()?)));
        story.finishes.extend(ends);
    }
    assert_eq!(story.reason(1), Some(FinishReason::Cancelled));
    assert_eq!(story.reason(2), Some(FinishReason::Length));
}

#[test]
fn a_new_session_ends_the_old_ones_sequences_and_hears_nothing_of_them() {
    for pipeline_depth in [0, 1] {
        let mut model = slow();
        model.limits.pipeline_depth = pipeline_depth;
        let engine = spawn(model.clone());
        let (old, old_frames) = attach(&engine, 10_000);
        old.admit(endless(1)).unwrap();
        Story::until(&old_frames, |story| story.ids.contains_key(&1));
        let (new, new_frames) = attach(&engine, 10_000);
        new.admit(request(1, 5)).unwrap();
        old.admit(request(2, 5)).unwrap();
        let story = Story::until(&new_frames, |story| story.finishes.len() == 1);
        assert_eq!(story.ids[&1].len(), 5);
        assert_eq!(story.frames.last().unwrap().load.running, 0);
        assert!(
            story
                .frames
                .iter()
                .all(|frame| frame.accepted.iter().all(|id| id.0 == 1))
        );
        assert!(
            story.frames.iter().all(|frame| frame.wasted_tokens == 0),
            "the old session's steps are not reported to the new one"
        );
        assert!(closes(&old_frames));
    }
}

#[test]
fn a_full_sink_ends_the_session_and_frees_its_sequences() {
    let engine = spawn(FakeModelConfig::default());
    let (frames, received) = sync_channel(1000);
    let full = FullAfter { room: 3, frames };
    let session = engine.handle().attach(Box::new(full)).unwrap();
    session.admit(endless(1)).unwrap();
    assert_eq!(
        received.iter().take(1000).count(),
        3,
        "the sink is dropped when it is full"
    );
    let (second, frames) = attach(&engine, 1000);
    session.admit(endless(2)).unwrap();
    second.admit(request(1, 3)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    assert!(
        story.frames.iter().all(|frame| frame.load.running <= 1),
        "nothing of the first session is left"
    );
    assert_eq!(story.ids[&1].len(), 3);
}

/// A sink whose reader is too slow for more than a few frames.
struct FullAfter {
    room: usize,
    frames: SyncSender<StepFrame>,
}

impl FrameSink for FullAfter {
    fn try_deliver(&mut self, frame: StepFrame) -> Result<(), SinkFull> {
        self.room = self.room.checked_sub(1).ok_or(SinkFull)?;
        self.frames.try_send(frame).map_err(|_| SinkFull)
    }
}

#[test]
fn dropping_a_session_cancels_what_it_admitted() {
    let engine = spawn(slow());
    let (session, frames) = attach(&engine, 10_000);
    session.admit(endless(1)).unwrap();
    Story::until(&frames, |story| story.ids.contains_key(&1));
    drop(session);
    assert!(closes(&frames));
}

#[test]
fn draining_finishes_what_runs_and_admits_nothing_more() {
    let engine = spawn(slow());
    let (session, frames) = attach(&engine, 10_000);
    session.admit(request(1, 20)).unwrap();
    engine.handle().drain(PATIENCE).unwrap();
    session.admit(request(2, 20)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    assert_eq!(story.reason(1), Some(FinishReason::Length));
    let rejected: Vec<_> = story.frames.iter().flat_map(|frame| frame.rejected.clone()).collect();
    assert_eq!(rejected, [(SequenceId(2), Reject::Draining)]);
    engine.join().unwrap();
}

#[test]
fn what_is_left_at_the_drains_deadline_ends_with_an_error() {
    let engine = spawn(slow());
    let (session, frames) = attach(&engine, 10_000);
    session.admit(endless(1)).unwrap();
    Story::until(&frames, |story| story.ids.contains_key(&1));
    engine.handle().drain(Duration::ZERO).unwrap();
    let mut last = None;
    while let Ok(frame) = frames.recv_timeout(PATIENCE) {
        last = frame.sequences.into_iter().find_map(|update| update.finish).or(last);
    }
    let finish = last.unwrap();
    assert_eq!(finish.reason, FinishReason::Error);
    assert!(finish.message.unwrap().contains("drained"));
    engine.join().unwrap();
}

#[test]
fn an_idle_engine_drains_at_once() {
    let engine = spawn(FakeModelConfig::default());
    engine.handle().drain(PATIENCE).unwrap();
    engine.join().unwrap();
}

#[test]
fn shutdown_stops_a_busy_engine() {
    for pipeline_depth in [0, 1] {
        let mut model = slow();
        model.limits.pipeline_depth = pipeline_depth;
        let engine = spawn(model);
        let (session, frames) = attach(&engine, 10_000);
        session.admit(endless(1)).unwrap();
        Story::until(&frames, |story| story.ids.contains_key(&1));
        let handle = engine.handle();
        handle.shutdown().unwrap();
        engine.join().unwrap();
        assert!(closes(&frames));
        assert_eq!(session.admit(request(2, 1)), Err(CommandError::Stopped));
        assert_eq!(handle.shutdown(), Err(CommandError::Stopped));
    }
}

#[test]
fn a_model_error_ends_the_steps_sequences_and_the_engine() {
    let wait = FakeFaults {
        fail_wait_at_step: Some(3),
        ..FakeFaults::default()
    };
    let submit = FakeFaults {
        fail_submit_at_step: Some(3),
        ..FakeFaults::default()
    };
    for faults in [wait, submit] {
        for pipeline_depth in [0, 1] {
            let mut model = FakeModelConfig {
                faults: faults.clone(),
                ..FakeModelConfig::default()
            };
            model.limits.pipeline_depth = pipeline_depth;
            let engine = spawn(model);
            let (session, frames) = attach(&engine, 1000);
            session.admit(request(1, 20)).unwrap();
            let story = Story::until(&frames, |story| story.finishes.len() == 1);
            assert_eq!(story.reason(1), Some(FinishReason::Error));
            assert_eq!(story.ids[&1].len(), 2, "what was computed before is delivered");
            assert!(story.finishes[&1].message.as_ref().unwrap().contains("told to fail"));
            assert!(closes(&frames));
            assert!(matches!(engine.join(), Err(Error::Model { step: 3, .. })));
        }
    }
}

#[test]
fn a_panic_in_the_model_is_reported_by_the_join() {
    let mut model = FakeModelConfig::default();
    model.faults.panic_at_step = Some(2);
    let engine = spawn(model);
    let (session, frames) = attach(&engine, 1000);
    session.admit(request(1, 20)).unwrap();
    assert!(closes(&frames));
    match engine.join() {
        Err(Error::Panicked(text)) => assert!(text.contains("told to panic")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slot_without_memory_ends_one_sequence_and_not_the_engine() {
    let mut model = FakeModelConfig::default();
    model.faults.no_memory_for_bucket = Some(BucketId(1));
    let engine = spawn(model);
    let (session, frames) = attach(&engine, 1000);
    session.admit(request(1, 400)).unwrap();
    session.admit(request(2, 10)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 2);
    assert_eq!(story.reason(1), Some(FinishReason::Error));
    assert!(story.finishes[&1].message.as_ref().unwrap().contains("out of memory"));
    assert_eq!(story.ids[&1].len(), 256 - 30 + 1);
    assert_eq!(story.reason(2), Some(FinishReason::Length));
}

#[test]
fn a_model_that_does_not_load_is_reported_to_whoever_waits() {
    let load = || Err::<FakeModel, _>("no such file");
    let mut engine = Engine::spawn(EngineConfig::default(), load).unwrap();
    let error = engine.wait_loaded(PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::Load(source) if source.to_string() == "no such file"));
}

#[test]
fn loading_can_be_waited_for_in_parts() {
    let (go, on_go) = sync_channel::<()>(1);
    let load = move || {
        on_go.recv().map_err(|error| error.to_string())?;
        Ok::<_, String>(FakeModel::new(FakeModelConfig::default()))
    };
    let mut engine = Engine::spawn(EngineConfig::default(), load).unwrap();
    let early = engine.wait_loaded(Duration::from_millis(1));
    assert!(matches!(early, Err(Error::LoadTimeout(_))));
    go.send(()).unwrap();
    let limits = engine.wait_loaded(PATIENCE).unwrap();
    assert_eq!(limits, FakeModelConfig::default().limits);
}

#[test]
fn a_full_command_queue_is_reported_and_not_waited_for() {
    let (go, on_go) = sync_channel::<()>(1);
    let load = move || {
        on_go.recv().map_err(|error| error.to_string())?;
        Ok::<_, String>(FakeModel::new(FakeModelConfig::default()))
    };
    let config = EngineConfig {
        command_capacity: 2,
        ..EngineConfig::default()
    };
    let engine = Engine::spawn(config, load).unwrap();
    let (session, frames) = attach(&engine, 1000);
    session.admit(request(1, 3)).unwrap();
    assert_eq!(session.admit(request(2, 3)), Err(CommandError::Busy));
    go.send(()).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    assert_eq!(
        story.reason(1),
        Some(FinishReason::Length),
        "what was queued while loading runs"
    );
}

#[test]
fn seeds_reach_the_model() {
    let model = FakeModelConfig::default();
    let params = SamplingParams {
        seed: 11,
        choice_index: 3,
        ..SamplingParams::default()
    };
    let engine = spawn(model.clone());
    let (session, frames) = attach(&engine, 1000);
    let asked = SequenceRequest {
        sampling: Arc::new(params.clone()),
        ..request(1, 6)
    };
    session.admit(asked.clone()).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    assert_eq!(story.ids[&1], model.expected_tokens(&asked.prompt, &params, 6));
}

#[test]
fn a_session_that_leaves_takes_its_slots_along() {
    let mut engine = Engine::new(EngineConfig::default(), FakeModel::new(FakeModelConfig::default()));
    engine.admit(endless(1));
    assert!(engine.submit_next().unwrap());
    let step = engine.submitted.pop_front().unwrap();
    engine.complete(step).unwrap();
    assert_eq!(engine.model.held_slots(), 1);
    engine.end_session();
    engine.free_slots().unwrap();
    assert_eq!(engine.model.held_slots(), 0);
    assert!(engine.is_idle());
}

#[test]
fn work_that_no_step_can_hold_ends_with_an_error_and_does_not_spin() {
    let mut model = FakeModelConfig::default();
    model.limits.max_sequences = 0;
    let engine = spawn(model);
    let (session, frames) = attach(&engine, 10);
    session.admit(request(1, 5)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    assert_eq!(story.reason(1), Some(FinishReason::Error));
    assert!(closes(&frames));
    let error = engine.join().unwrap_err();
    assert!(matches!(error, Error::Stalled { running: 0, waiting: 1 }), "{error:?}");
}

#[test]
fn a_slot_that_cannot_grow_is_free_before_the_engine_sleeps() {
    let mut model = FakeModelConfig::default();
    model.faults.no_memory_for_bucket = Some(BucketId(1));
    let mut engine = Engine::new(EngineConfig::default(), FakeModel::new(model));
    engine.admit(request(1, 400));
    let mut attempts = 0;
    while !engine.is_idle() && attempts < 1000 {
        attempts += 1;
        if engine.submit_next().unwrap() {
            let step = engine.submitted.pop_front().unwrap();
            engine.complete(step).unwrap();
        }
    }
    assert!(engine.is_idle());
    assert_eq!(engine.model.held_slots(), 0);
}

#[test]
fn a_pipelined_step_lasts_from_the_end_of_the_one_before() {
    let mut model = slow();
    model.step_time.base = Duration::from_millis(15);
    model.limits.pipeline_depth = 1;
    let engine = spawn(model);
    let (session, frames) = attach(&engine, 1000);
    let began = Instant::now();
    session.admit(request(1, 6)).unwrap();
    let story = Story::until(&frames, |story| story.finishes.len() == 1);
    let elapsed = began.elapsed();
    let sum: Duration = story.frames.iter().map(|frame| frame.step_duration).sum();
    assert!(sum <= elapsed, "steps of {sum:?} in {elapsed:?}");
}
