//! What becomes of admitted sequences.

use std::collections::HashSet;

use kr_proto::worker::session_request::Message;
use kr_proto::worker::{Admit, Cancel, FinishReason, RejectReason, Sampling, StepFrame};

use super::harness::{Router, Worker, admit, fast, greedy, greedy_params, slow};

/// Reads frames until `count` sequences have ended.
async fn frames_until_ended(router: &mut Router, count: usize) -> Vec<StepFrame> {
    let (mut frames, mut ended) = (Vec::new(), 0);
    while ended < count {
        let frame = router.frame().await;
        ended += frame
            .sequences
            .iter()
            .filter(|sequence| sequence.finish.is_some())
            .count();
        frames.push(frame);
    }
    frames
}

fn tokens_of(frames: &[StepFrame], id: u64) -> Vec<u32> {
    let steps = frames
        .iter()
        .flat_map(|frame| &frame.sequences)
        .filter(|step| step.sequence_id == id);
    let mut tokens = Vec::new();
    for step in steps {
        assert_eq!(
            usize::try_from(step.start_index).unwrap(),
            tokens.len(),
            "a gap or a repetition"
        );
        tokens.extend(&step.ids);
    }
    tokens
}

fn reason(frames: &[StepFrame], id: u64) -> FinishReason {
    let mut steps = frames.iter().flat_map(|frame| &frame.sequences);
    let finish = steps.find_map(|step| step.finish.as_ref().filter(|_| step.sequence_id == id));
    finish.unwrap().reason()
}

#[tokio::test]
async fn an_admitted_sequence_gets_the_expected_tokens() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(7, &[11, 12, 13], 20))).await;
    let frames = frames_until_ended(&mut router, 1).await;
    assert_eq!(
        tokens_of(&frames, 7),
        fast().expected_tokens(&[11, 12, 13], &greedy_params(), 20)
    );
    assert_eq!(reason(&frames, 7), FinishReason::Length);
    assert!(frames.iter().all(|frame| frame.worker_instance_id == 42));
    assert_eq!(
        frames.iter().flat_map(|frame| &frame.accepted).collect::<Vec<_>>(),
        [&7]
    );
    let last = frames.last().unwrap();
    assert_eq!(last.load.unwrap().running, 0);
    assert_eq!(last.load.unwrap().pending_prefill_tokens, 0);
    assert_eq!(last.next_expected, None);
}

#[tokio::test]
async fn sampling_stop_ids_logprobs_and_replay_reach_the_model() {
    let worker = Worker::start(fast()).await;
    let mut router = worker.open().await;
    let sampling = Sampling {
        temperature: 0.8,
        seed: 5,
        choice_index: 1,
        ..greedy()
    };
    let params = kr_contract::SamplingParams {
        temperature: 0.8,
        seed: 5,
        choice_index: 1,
        ..greedy_params()
    };
    let all = fast().expected_tokens(&[3, 4], &params, 12);
    let replay = Admit {
        emitted_ids: all[..4].to_vec(),
        stop_token_ids: vec![all[9]],
        sampling: Some(sampling),
        logprobs: Some(2),
        ..admit(1, &[3, 4], 8)
    };
    router.send(Message::Admit(replay)).await;
    let frames = frames_until_ended(&mut router, 1).await;
    let steps: Vec<_> = frames.iter().flat_map(|frame| &frame.sequences).collect();
    let ids: Vec<u32> = steps.iter().flat_map(|step| step.ids.clone()).collect();
    let stop = all.iter().position(|id| *id == all[9]).unwrap();
    assert_eq!(ids, all[4..=stop]);
    assert_eq!(steps[0].start_index, 4);
    assert_eq!(reason(&frames, 1), FinishReason::Stop);
    assert!(steps.iter().all(|step| step.logprobs.len() == step.ids.len()));
    assert_eq!(steps[0].logprobs[0].top_ids.len(), 2);
}

#[tokio::test]
async fn thirty_two_sequences_share_one_frame_per_step() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    for id in 1..=32_u32 {
        router.send(Message::Admit(admit(id.into(), &[id, 100], 40))).await;
    }
    let frames = frames_until_ended(&mut router, 32).await;
    let steps: Vec<u64> = frames.iter().map(|frame| frame.step).filter(|step| *step > 0).collect();
    assert_eq!(
        steps,
        (1..=steps.len() as u64).collect::<Vec<_>>(),
        "one frame for each step"
    );
    let full = frames.iter().filter(|frame| frame.sequences.len() == 32).count();
    assert!(full >= 20, "{full} frames carried all sequences");
    for id in 1..=32_u32 {
        let expected = fast().expected_tokens(&[id, 100], &greedy_params(), 40);
        assert_eq!(tokens_of(&frames, id.into()), expected, "sequence {id}");
    }
    let tokens: usize = frames
        .iter()
        .flat_map(|frame| &frame.sequences)
        .map(|step| step.ids.len())
        .sum();
    assert_eq!(tokens, 32 * 40);
    assert!(
        (frames.len() + 32) * 10 <= tokens,
        "{} messages for {tokens} tokens",
        frames.len() + 32
    );
}

#[tokio::test]
async fn a_cancelled_sequence_ends_and_frees_its_kv() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(1, &[1, 2], 1000))).await;
    while router.frame().await.sequences.is_empty() {}
    router
        .send(Message::Cancel(Cancel {
            sequence_id: 1,
            reason: 0,
        }))
        .await;
    let frames = frames_until_ended(&mut router, 1).await;
    assert_eq!(reason(&frames, 1), FinishReason::Cancelled);
    router.send(Message::Admit(admit(2, &[1], 1))).await;
    let frames = frames_until_ended(&mut router, 1).await;
    let load = frames.last().unwrap().load.unwrap();
    assert_eq!((load.running, load.kv_used_bytes), (0, 0));
}

#[tokio::test]
async fn bad_admits_are_rejected_and_the_session_goes_on() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    router.send(Message::Admit(admit(1, &[1, 2], 1000))).await;
    let context = usize::try_from(slow().limits.context_tokens).unwrap();
    let rows = [
        (admit(1, &[5], 5), RejectReason::Invalid, "sequence_id"),
        (admit(2, &[], 5), RejectReason::Invalid, "prompt_ids"),
        (admit(3, &[u32::MAX], 5), RejectReason::Invalid, "vocabulary"),
        (
            Admit {
                adapter_id: "lora".to_owned(),
                ..admit(4, &[1], 5)
            },
            RejectReason::Unsupported,
            "adapter_id",
        ),
        (admit(5, &vec![1; context + 1], 5), RejectReason::TooLarge, "context"),
    ];
    for (admit, reason, named) in rows {
        let id = admit.sequence_id;
        router.send(Message::Admit(admit)).await;
        let rejected = router.rejected().await;
        assert_eq!((rejected.sequence_id, rejected.reason()), (Some(id), reason), "{named}");
        assert!(rejected.message.contains(named), "{}", rejected.message);
    }
    router.send(Message::Admit(admit(6, &[9], 3))).await;
    let frames = frames_until_ended(&mut router, 1).await;
    assert_eq!(tokens_of(&frames, 6), fast().expected_tokens(&[9], &greedy_params(), 3));
    let alive: HashSet<u64> = frames
        .iter()
        .flat_map(|frame| &frame.sequences)
        .map(|step| step.sequence_id)
        .collect();
    assert!(alive.contains(&1), "the duplicate did not hurt the original");
}

#[tokio::test]
async fn pending_prompt_tokens_are_part_of_the_load() {
    let worker = Worker::start(slow()).await;
    let mut router = worker.open().await;
    let long = vec![1; 1200];
    router.send(Message::Admit(admit(1, &long, 1))).await;
    let frames = frames_until_ended(&mut router, 1).await;
    let steps = frames.iter().filter(|frame| frame.step > 0);
    let pending: Vec<u64> = steps.map(|frame| frame.load.unwrap().pending_prefill_tokens).collect();
    assert_eq!(pending, [1200 - 512, 1200 - 1024, 0], "steps of at most 512 tokens");
}
