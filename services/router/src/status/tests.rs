use std::time::Duration;

use kr_contract::RequestId;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::error::Violation;

const REQUEST: RequestId = RequestId(0xabc);

/// Every error there is, with the code and reason a client must read.
fn table() -> Vec<(Error, Code, &'static str)> {
    let second = Duration::from_secs(1);
    vec![
        (
            Error::Invalid(vec![
                Violation::new("parameters.top_p", "is 2, allowed is above 0, up to 1"),
                Violation::new("model", "is missing"),
            ]),
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
        (
            Error::ContextLength {
                field: "parameters.max_tokens",
                prompt_tokens: 100,
                max_tokens: 50,
                limit: 128,
            },
            Code::InvalidArgument,
            "CONTEXT_LENGTH_EXCEEDED",
        ),
        (
            Error::NotImplemented {
                fields: vec!["parameters.n"],
            },
            Code::Unimplemented,
            "FIELD_NOT_IMPLEMENTED",
        ),
        (
            Error::UnknownModel { name: "x".into() },
            Code::NotFound,
            "MODEL_NOT_FOUND",
        ),
        (
            Error::NoChatTemplate { model: "x".into() },
            Code::FailedPrecondition,
            "NO_CHAT_TEMPLATE",
        ),
        (
            Error::ChatTemplate {
                model: "x".into(),
                source: kr_tokenizer::Error::NoChatTemplate,
            },
            Code::FailedPrecondition,
            "CHAT_TEMPLATE_FAILED",
        ),
        (
            Error::TenantLimit {
                tenant: "acme".into(),
                limit: 4,
            },
            Code::ResourceExhausted,
            "TENANT_LIMIT",
        ),
        (
            Error::ServerBusy {
                limit: 9,
                what: "requests",
            },
            Code::ResourceExhausted,
            "SERVER_BUSY",
        ),
        (
            Error::Unauthenticated { given: false },
            Code::Unauthenticated,
            "API_KEY_MISSING",
        ),
        (
            Error::Unauthenticated { given: true },
            Code::Unauthenticated,
            "API_KEY_UNKNOWN",
        ),
        (
            Error::MessageTooLarge { limit_bytes: 4 },
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        ),
        (
            Error::Undecodable { detail: "x".into() },
            Code::InvalidArgument,
            "UNDECODABLE_REQUEST",
        ),
        (Error::UnknownMethod, Code::Unimplemented, "UNKNOWN_METHOD"),
        (
            Failed::QueueFull {
                capacity: 8,
                retry_after: second,
            }
            .into(),
            Code::ResourceExhausted,
            "QUEUE_FULL",
        ),
        (
            Failed::TenantQueueFull {
                capacity: 8,
                retry_after: second,
            }
            .into(),
            Code::ResourceExhausted,
            "TENANT_LIMIT",
        ),
        (
            Failed::CannotStart {
                wait: 3 * second,
                time_left: second,
                retry_after: 2 * second,
            }
            .into(),
            Code::ResourceExhausted,
            "SHED_DEADLINE",
        ),
        (
            Failed::DeadlineExceeded.into(),
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
        ),
        (
            Failed::NoWorker { waited: second }.into(),
            Code::Unavailable,
            "NO_WORKER_READY",
        ),
        (
            Failed::ModelNotLoaded { message: "x".into() }.into(),
            Code::FailedPrecondition,
            "MODEL_LOAD_FAILED",
        ),
        (Failed::Draining.into(), Code::Unavailable, "DRAINING"),
        (Error::CutByDrain { emitted: 3 }, Code::Unavailable, "DRAINING"),
        (
            Failed::WorkerLost { emitted: 7 }.into(),
            Code::Unavailable,
            "WORKER_LOST",
        ),
        (
            Failed::Refused { message: "x".into() }.into(),
            Code::InvalidArgument,
            "REQUEST_REFUSED",
        ),
        (Failed::SlowConsumer.into(), Code::ResourceExhausted, "SLOW_CONSUMER"),
        (
            Failed::ModelFailed {
                message: "secret".into(),
            }
            .into(),
            Code::Internal,
            "MODEL_FAILED",
        ),
        (
            Error::internal("relay", "secret".to_owned()),
            Code::Internal,
            "INTERNAL",
        ),
    ]
}

#[test]
fn every_error_has_its_code_and_reason() {
    for (error, code, reason) in table() {
        let status = status(&error, REQUEST);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{error}");
        assert_eq!(info.domain, DOMAIN);
    }
}

#[test]
fn docs_and_reasons_name_each_other() {
    let docs = include_str!("../../../../docs/errors.md");
    let documented: Vec<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("## ")?.strip_prefix('`')?.strip_suffix('`'))
        .collect();
    let mut mapped: Vec<&str> = table().into_iter().map(|(_, _, reason)| reason).collect();
    mapped.dedup();
    for reason in &mapped {
        assert!(documented.contains(reason), "{reason} is missing in docs/errors.md");
    }
    for reason in &documented {
        assert!(
            mapped.contains(reason),
            "docs/errors.md names {reason}, which nothing sends"
        );
    }
}

#[test]
fn invalid_fields_are_all_named() {
    let (error, ..) = table().remove(0);
    let bad_request = status(&error, REQUEST).get_details_bad_request().unwrap();
    let fields: Vec<_> = bad_request
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["parameters.top_p", "model"]);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let full = Failed::QueueFull {
        capacity: 8,
        retry_after: Duration::from_millis(250),
    };
    let status = status(&full.into(), REQUEST);
    let delay = status.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(delay, Some(Duration::from_millis(250)));
    assert_eq!(status.metadata().get(RETRY_PUSHBACK).unwrap(), "250");
}

#[test]
fn a_request_that_cannot_start_in_time_reads_why_and_when_to_come_back() {
    let late = Failed::CannotStart {
        wait: Duration::from_millis(3400),
        time_left: Duration::from_millis(1200),
        retry_after: Duration::from_millis(2200),
    };
    let status = status(&late.into(), REQUEST);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (
            info.metadata["wait_ms"].as_str(),
            info.metadata["time_left_ms"].as_str()
        ),
        ("3400", "1200")
    );
    assert_eq!(status.metadata().get(RETRY_PUSHBACK).unwrap(), "2200");
    assert!(
        status.message().contains("3.4s") && status.message().contains("1.2s"),
        "{}",
        status.message()
    );
}

#[test]
fn context_length_names_limit_and_actual() {
    let (error, ..) = table().remove(1);
    let info = status(&error, REQUEST).get_details_error_info().unwrap();
    assert_eq!(info.metadata["limit"], "128");
    assert_eq!(info.metadata["actual"], "150");
}

#[test]
fn lost_tokens_are_counted_for_the_client() {
    let status = status(&Failed::WorkerLost { emitted: 7 }.into(), REQUEST);
    assert_eq!(status.get_details_error_info().unwrap().metadata["tokens_emitted"], "7");
    assert!(
        status.get_details_retry_info().is_none(),
        "after tokens, trying again is the caller's choice"
    );
}

#[test]
fn an_answer_cut_by_the_drain_invites_no_second_try() {
    let drained = || Error::from(Failed::Draining);
    let cut = status(&drained().after_tokens(5), REQUEST);
    let info = cut.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.metadata["tokens_emitted"].as_str()),
        ("DRAINING", "5")
    );
    assert!(cut.get_details_retry_info().is_none());
    let whole = status(&drained().after_tokens(0), REQUEST);
    assert!(whole.get_details_retry_info().is_some());
}

#[test]
fn a_field_is_named_once_in_its_description() {
    let error = Error::ContextLength {
        field: "prompt",
        prompt_tokens: 100,
        max_tokens: 50,
        limit: 128,
    };
    let details = status(&error, REQUEST).get_details_bad_request().unwrap();
    assert!(
        details.field_violations[0].description.starts_with("100 prompt tokens"),
        "{details:?}"
    );
}

#[test]
fn internals_stay_in_the_log() {
    for (error, code, _) in table() {
        if code != Code::Internal {
            continue;
        }
        let status = status(&error, REQUEST);
        assert!(!status.message().contains("secret"), "{}", status.message());
        assert_eq!(
            status.get_details_request_info().unwrap().request_id,
            REQUEST.to_string()
        );
    }
}
