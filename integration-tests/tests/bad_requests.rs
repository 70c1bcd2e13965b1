//! Requests that are wrong, too large or no requests at all: a status that names the field, and a service that goes on.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

use kr_integration_tests::{Service, call_with_bytes, generate, greedy, prompt};
use kr_proto::serve::generate_request::Input;
use kr_proto::serve::{ChatMessage, ChatRequest, Choices, GenerateRequest, Parameters, ResponseFormat, StreamGrouping};
use kr_proto::serve::{TokenIds, response_format::Format};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const GENERATE: &str = "/kr.serve.v1.InferenceService/Generate";

async fn refused(service: &Service, request: GenerateRequest) -> Status {
    match service.inference().generate(request).await {
        Ok(_) => panic!("the request was accepted"),
        Err(status) => status,
    }
}

async fn refused_chat(service: &Service, messages: &[(&str, &str)]) -> Status {
    let message = |(role, content): &(&str, &str)| ChatMessage {
        role: (*role).into(),
        content: (*content).into(),
    };
    let request = ChatRequest {
        messages: messages.iter().map(message).collect(),
        ..ChatRequest::default()
    };
    match service.inference().chat(request).await {
        Ok(_) => panic!("the request was accepted"),
        Err(status) => status,
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

/// The fields at fault, in order.
fn fields(status: &Status) -> Vec<String> {
    let request = status.get_details_bad_request();
    let violations = request
        .unwrap_or_else(|| panic!("no BadRequest in {status:?}"))
        .field_violations;
    violations.into_iter().map(|violation| violation.field).collect()
}

async fn still_serves(service: &Service) {
    let answer = generate(service, prompt("Hello", greedy(2))).await.unwrap();
    assert!(!answer.ids.is_empty());
}

#[tokio::test]
async fn every_field_at_fault_is_named_at_once() {
    let service = Service::fake(1, "").start().await;
    let parameters = Parameters {
        temperature: Some(f32::NAN),
        top_p: Some(1.5),
        min_p: Some(-0.1),
        max_tokens: Some(0),
        logprobs: Some(21),
        stop: vec!["fine".into(), String::new(), "x".repeat(257)],
        stop_token_ids: vec![4_000_000],
        priority: 77,
        ..Parameters::default()
    };
    let status = refused(&service, prompt("", parameters)).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "INVALID_REQUEST")
    );
    let fields = fields(&status);
    let expected = [
        "prompt",
        "parameters.temperature",
        "parameters.top_p",
        "parameters.min_p",
        "parameters.max_tokens",
        "parameters.logprobs",
        "parameters.stop[1]",
        "parameters.stop[2]",
        "parameters.stop_token_ids",
        "parameters.priority",
    ];
    for field in expected {
        assert!(
            fields.iter().any(|found| found == field),
            "{field} is not among {fields:?}"
        );
    }
    assert_eq!(fields.len(), expected.len(), "{fields:?}");
    for bad in [f32::INFINITY, f32::NEG_INFINITY, -1.0, 101.0] {
        let parameters = Parameters {
            temperature: Some(bad),
            ..Parameters::default()
        };
        let status = refused(&service, prompt("Hello", parameters)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}: {status:?}");
    }
}

#[tokio::test]
async fn prompts_that_are_none_are_refused_by_their_field() {
    let service = Service::fake(1, "").start().await;
    let ids = |ids: Vec<u32>| GenerateRequest {
        input: Some(Input::PromptIds(TokenIds { ids })),
        ..GenerateRequest::default()
    };
    let cases = [
        (GenerateRequest::default(), "prompt"),
        (prompt("", greedy(1)), "prompt"),
        (prompt("a\0b", greedy(1)), "prompt"),
        (ids(vec![]), "prompt_ids"),
        (ids(vec![1, 4_000_000]), "prompt_ids.ids[1]"),
    ];
    for (request, field) in cases {
        let status = refused(&service, request).await;
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec![field.to_owned()])
        );
    }
    let chats: [(&[(&str, &str)], &str); 3] = [
        (&[], "messages"),
        (&[("user", "Hello"), ("", "Hello")], "messages[1].role"),
        (&[("user", "a\0b")], "messages[0].content"),
    ];
    for (messages, field) in chats {
        let status = refused_chat(&service, messages).await;
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec![field.to_owned()])
        );
    }
    let status = refused(
        &service,
        GenerateRequest {
            model: "gpt-9".into(),
            ..prompt("Hello", greedy(1))
        },
    )
    .await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "MODEL_NOT_FOUND")
    );
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "gpt-9");
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_refused_with_the_figures() {
    let service = Service::fake(1, "").start().await;
    let words = |count: usize| "word ".repeat(count);
    for request in [prompt(&words(10_000), greedy(1)), prompt("Hello", greedy(1_000_000))] {
        let status = refused(&service, request).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "CONTEXT_LENGTH_EXCEEDED")
        );
        let facts = status.get_details_error_info().unwrap().metadata;
        let figure = |name: &str| facts[name].parse::<u32>().unwrap();
        assert!(figure("actual") > figure("limit"), "{facts:?}");
        assert_eq!(figure("prompt_tokens") + figure("max_tokens"), figure("actual"));
        assert!(!fields(&status).is_empty());
    }
    let stops = Parameters {
        stop: (0..10_000).map(|index| format!("stop {index}")).collect(),
        ..greedy(1)
    };
    let status = refused(&service, prompt("Hello", stops)).await;
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::InvalidArgument, vec!["parameters.stop".to_owned()])
    );
    still_serves(&service).await;
}

#[tokio::test]
async fn fields_not_implemented_yet_are_refused_by_name_and_never_ignored() {
    let service = Service::fake(1, "").start().await;
    let none = Parameters::default;
    let format = |format| Some(ResponseFormat { format: Some(format) });
    let choice = Choices {
        choices: vec!["yes".into(), "no".into()],
    };
    let grouping = StreamGrouping {
        max_tokens: 4,
        max_delay: None,
    };
    let cases = [
        (
            Parameters {
                response_format: format(Format::Regex("a+".into())),
                ..none()
            },
            "response_format",
        ),
        (
            Parameters {
                response_format: format(Format::Choice(choice)),
                ..none()
            },
            "response_format",
        ),
        (
            Parameters {
                stream_grouping: Some(grouping),
                ..none()
            },
            "stream_grouping",
        ),
        (
            Parameters {
                adapter: Some("mine".into()),
                ..none()
            },
            "adapter",
        ),
    ];
    for (parameters, field) in cases {
        let status = refused(&service, prompt("Hello", parameters)).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "FIELD_NOT_IMPLEMENTED"),
            "{field}"
        );
        assert_eq!(fields(&status), [format!("parameters.{field}")]);
        assert!(status.message().contains(field), "{}", status.message());
    }
    let key = GenerateRequest {
        idempotency_key: "once".into(),
        ..prompt("Hello", none())
    };
    let status = refused(&service, key).await;
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::Unimplemented, vec!["idempotency_key".to_owned()])
    );
    let neutral = Parameters {
        stream_grouping: Some(StreamGrouping::default()),
        adapter: Some(String::new()),
        ..greedy(2)
    };
    assert!(
        generate(&service, prompt("Hello", neutral)).await.is_ok(),
        "neutral values are no wish"
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_or_undecodable_leaves_the_connection_usable() {
    let service = Service::fake(1, "").start().await;
    let large = prompt(&"x".repeat(20 << 20), greedy(1));
    let status = refused(&service, large).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    assert!(
        status.get_details_error_info().unwrap().metadata["limit_bytes"]
            .parse::<u32>()
            .is_ok()
    );
    still_serves(&service).await;
    let not_utf8 = b"\x12\x02\xff\xfe".to_vec();
    for bytes in [vec![0xff; 40], b"\x12\x7f".to_vec(), not_utf8, b"\x08\x96\x01".to_vec()] {
        let status = call_with_bytes(service.channel(), GENERATE, bytes.clone())
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "UNDECODABLE_REQUEST"),
            "{bytes:?}: {status:?}"
        );
    }
    still_serves(&service).await;
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_and_counted_under_one_label() {
    let service = Service::fake(1, "").start().await;
    for path in [
        "/kr.serve.v1.InferenceService/Levitate",
        "/no.such.Service/Method",
        "/x/y",
    ] {
        let status = call_with_bytes(service.channel(), path, Vec::new()).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unimplemented, "UNKNOWN_METHOD"),
            "{path}"
        );
    }
    let other = service
        .metric("rpc_server_call_duration_seconds_count", "rpc_method=\"_OTHER\"")
        .await;
    assert_eq!(other, 3.0);
    let (_, page) = service.get("/metrics").await;
    assert!(!page.contains("Levitate"), "clients cannot make series");
}

#[tokio::test]
async fn odd_metadata_is_ignored_and_too_much_of_it_refused() {
    let service = Service::fake(1, "").start().await;
    let with = |name: &'static str, value: &str| {
        let mut request = Request::new(prompt("Hello", greedy(2)));
        request.metadata_mut().insert(name, value.parse().unwrap());
        request
    };
    for traceparent in [
        "",
        "nonsense",
        "00-0-0-0",
        "ff-ffffffffffffffffffffffffffffffff-0000000000000000-ff",
    ] {
        let request = with("traceparent", traceparent);
        assert!(service.inference().generate(request).await.is_ok(), "{traceparent:?}");
    }
    let mut request = with("grpc-timeout", "soon");
    request
        .metadata_mut()
        .insert_bin("odd-bin", tonic::metadata::MetadataValue::from_bytes(&[0xff, 0, 1]));
    request.metadata_mut().append("traceparent", "twice".parse().unwrap());
    request.metadata_mut().append("traceparent", "thrice".parse().unwrap());
    let outcome = service.inference().generate(request).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let huge = service.inference().generate(with("huge", &"x".repeat(1 << 20))).await;
    assert!(huge.is_err(), "a megabyte of metadata is over any limit");
    still_serves(&service).await;
}
