use super::*;

fn piece(choice_index: u32, text: &str, ids: &[u32], finish: Option<Finish>) -> Result<GenerateResponse, Status> {
    Ok(GenerateResponse {
        choice_index,
        text: text.into(),
        token_ids: ids.to_vec(),
        finish,
        ..GenerateResponse::default()
    })
}

fn usage(completion_tokens: u32) -> Usage {
    Usage {
        prompt_tokens: 3,
        completion_tokens,
        total_tokens: 3 + completion_tokens,
        cached_tokens: 0,
    }
}

fn finish(completion_tokens: u32, request_tokens: Option<u32>) -> Option<Finish> {
    Some(Finish {
        reason: FinishReason::Stop.into(),
        usage: Some(usage(completion_tokens)),
        receipt: None,
        request_usage: request_tokens.map(usage),
    })
}

#[tokio::test]
async fn pieces_become_one_answer_and_show_as_they_come() {
    let pieces = [
        piece(0, "He", &[1], None),
        piece(0, "", &[2], None),
        piece(0, "llo", &[3], finish(3, Some(3))),
    ];
    let mut seen = Vec::new();
    let stream = tokio_stream::iter(pieces);
    let show = |text: &str| {
        seen.push(text.to_owned());
        Ok(())
    };
    let answer = Answer::collect(stream, Instant::now(), show).await.unwrap();
    assert_eq!(seen, ["He", "llo"]);
    assert_eq!(
        (answer.text.as_str(), answer.token_ids.as_slice()),
        ("Hello", [1, 2, 3].as_slice())
    );
}

#[tokio::test]
async fn choices_are_told_apart_and_the_prompt_is_counted_once() {
    let pieces = [
        piece(1, "b", &[1], None),
        piece(0, "a", &[2, 3], finish(2, None)),
        piece(1, "", &[4], finish(2, Some(4))),
    ];
    let (answers, result) = Answers::collect(tokio_stream::iter(pieces), Instant::now(), |_, _| Ok(())).await;
    result.unwrap();
    let json = answers.to_json(None);
    assert_eq!(json["choices"][0]["text"], "a");
    assert_eq!(json["choices"][1]["token_ids"], serde_json::json!([1, 4]));
    assert_eq!(json["choices"][1]["choice_index"], 1);
    assert_eq!(json["usage"]["total_tokens"], 7);
}

#[tokio::test]
async fn a_stream_without_an_end_is_an_error() {
    let stream = tokio_stream::iter([piece(0, "He", &[1], None)]);
    let result = Answer::collect(stream, Instant::now(), |_| Ok(())).await;
    assert!(matches!(result, Err(Error::Unfinished)));
}

#[tokio::test]
async fn what_came_before_a_failure_is_kept_with_its_receipt() {
    let failing = [
        piece(0, "He", &[1], finish(1, Some(1))),
        Err(Status::unavailable("the worker was lost")),
    ];
    let (answers, result) = Answers::collect(tokio_stream::iter(failing), Instant::now(), |_, _| Ok(())).await;
    let error = result.unwrap_err().to_string();
    let json = answers.to_json(Some(&error));
    assert_eq!(json["text"], "He");
    assert_eq!(json["usage"]["completion_tokens"], 1);
    assert!(
        json["error"].as_str().unwrap().contains("the worker was lost"),
        "{json}"
    );
}
