use super::*;

fn hello_of_worker() -> proto::Hello {
    crate::workers::fake::hello("m", "t")
}

#[test]
fn another_major_protocol_is_refused_with_both_versions() {
    let hello = proto::Hello {
        protocol_major: 9,
        protocol_minor: 3,
        ..hello_of_worker()
    };
    let message = profile(hello).unwrap_err().to_string();
    assert!(message.contains("9.3") && message.contains("1.0"), "{message}");
}

#[test]
fn a_hello_that_needs_unknown_features_is_refused() {
    let hello = proto::Hello {
        required_features: vec!["teleport".into()],
        ..hello_of_worker()
    };
    assert!(profile(hello).unwrap_err().to_string().contains("teleport"));
}

#[test]
fn a_hello_without_profile_or_class_is_refused() {
    let hello = proto::Hello {
        worker: None,
        ..hello_of_worker()
    };
    assert!(matches!(profile(hello), Err(Error::Incomplete(_))));
    let mut hello = hello_of_worker();
    hello.worker.as_mut().unwrap().fingerprint.as_mut().unwrap().class = 0;
    assert!(matches!(profile(hello), Err(Error::Incomplete("the exactness class"))));
}

#[test]
fn a_frame_that_contradicts_itself_is_malformed() {
    let sequence = proto::SequenceStep {
        ids: vec![1, 2],
        logprobs: vec![proto::Logprobs::default()],
        ..Default::default()
    };
    let sequences = vec![sequence];
    assert!(
        frame(proto::StepFrame {
            sequences,
            ..Default::default()
        })
        .is_err()
    );
    let sequence = proto::SequenceStep {
        finish: Some(proto::SequenceFinish::default()),
        ..Default::default()
    };
    let sequences = vec![sequence];
    assert!(
        frame(proto::StepFrame {
            sequences,
            ..Default::default()
        })
        .is_err()
    );
}

#[test]
fn max_tokens_on_the_wire_leaves_out_what_was_emitted() {
    let admission = Admission {
        id: SequenceId(3),
        attempt: 2,
        request: crate::dispatch::testing::request(8).into(),
        emitted: vec![7, 7, 7],
        time_left: Some(Duration::from_millis(1500)),
    };
    let admit = admit(admission);
    assert_eq!((admit.max_tokens, admit.attempt, admit.emitted_ids.len()), (5, 2, 3));
    assert_eq!(from_wire(admit.time_left), Duration::from_millis(1500));
}

#[test]
fn durations_out_of_range_become_zero() {
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    assert_eq!(from_wire(Some(negative)), Duration::ZERO);
    assert_eq!(from_wire(None), Duration::ZERO);
}

#[test]
fn what_an_older_worker_might_ignore_is_required_of_it() {
    let mut request = crate::dispatch::testing::request(8);
    let told = |request: &crate::sequence::SequenceRequest, emitted: &[u32]| {
        admit(Admission {
            id: SequenceId(3),
            attempt: 1,
            request: request.clone().into(),
            emitted: emitted.to_vec(),
            time_left: None,
        })
    };
    assert_eq!(told(&request, &[]).required_features, [""; 0]);
    request.params.frequency_penalty = 0.5;
    request.prompt_logprobs = Some(2);
    let first = told(&request, &[]);
    assert_eq!(first.required_features, ["penalties", "prompt_logprobs"]);
    assert_eq!(first.prompt_logprobs, Some(2));
    let replay = told(&request, &[7]);
    assert_eq!(replay.required_features, ["penalties"]);
    assert_eq!(replay.prompt_logprobs, None, "the client has them");
}

#[test]
fn block_names_are_sixteen_bytes() {
    let named = |name: &[u8]| {
        frame(proto::StepFrame {
            blocks_added: vec![name.to_vec()],
            ..Default::default()
        })
    };
    assert_eq!(named(&[7; 16]).unwrap().blocks_added, [BlockHash([7; 16])]);
    assert!(named(&[7; 15]).is_err());
}

#[test]
fn a_measured_speed_is_taken_and_nonsense_is_none() {
    let told = |prefill_tokens_per_second| {
        let mut hello = hello_of_worker();
        hello.worker.as_mut().unwrap().warm_up = Some(proto::WarmUp {
            prefill_tokens_per_second,
            batch_decode_step: Some(to_wire(Duration::from_millis(20))),
            ..Default::default()
        });
        profile(hello).unwrap().speed
    };
    let speed = told(100.0).unwrap();
    assert_eq!(speed.prefill_token, Duration::from_millis(10));
    assert_eq!(speed.batch_decode_step, Duration::from_millis(20));
    for nonsense in [0.0, -1.0, f64::NAN] {
        assert_eq!(told(nonsense), None, "{nonsense}");
    }
}
