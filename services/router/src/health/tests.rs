use std::sync::Arc;

use futures::StreamExt as _;
use tonic::Code;

use super::*;
use crate::catalog::tests::byte_model;
use crate::dispatch::ModelSnapshot;

/// Returns models in these states, named a, b, ….
pub(crate) fn models(states: &[ModelState]) -> Snapshot {
    let named = states.iter().zip('a'..);
    let models = named.map(|(state, name)| {
        Arc::new(ModelSnapshot {
            name: name.to_string().into(),
            state: *state,
            message: (*state == ModelState::Failed).then(|| "weights are missing".into()),
            profile: None,
            ready_workers: u32::from(*state == ModelState::Ready),
            configured_workers: 1,
            max_sequences: 0,
            workers: Vec::new(),
        })
    });
    models.collect()
}

pub(crate) fn readiness(states: &[ModelState]) -> (watch::Sender<Snapshot>, Readiness) {
    let (sender, receiver) = watch::channel(models(states));
    let catalog = Catalog::new(vec![byte_model(0, "a", &["first"]), byte_model(1, "b", &[])]);
    let readiness = Readiness {
        catalog: Arc::new(catalog),
        models: receiver,
        draining: CancellationToken::new(),
        closing: CancellationToken::new(),
    };
    (sender, readiness)
}

const SERVING: Option<ServingStatus> = Some(ServingStatus::Serving);
const NOT_SERVING: Option<ServingStatus> = Some(ServingStatus::NotServing);

#[test]
fn liveness_does_not_depend_on_workers_and_readiness_does() {
    let (_sender, readiness) = readiness(&[ModelState::Failed, ModelState::Loading]);
    for (service, status) in [
        ("", SERVING),
        (MODELS, SERVING),
        (INFERENCE, NOT_SERVING),
        ("kr.model/a", NOT_SERVING),
        ("kr.model/c", None),
        ("other", None),
    ] {
        assert_eq!(readiness.of(service), status, "{service}");
    }
}

#[test]
fn one_ready_model_is_enough_to_serve() {
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Failed]);
    for (service, status) in [
        (INFERENCE, SERVING),
        ("kr.model/a", SERVING),
        ("kr.model/first", SERVING),
        ("kr.model/b", NOT_SERVING),
    ] {
        assert_eq!(readiness.of(service), status, "{service}");
    }
}

#[test]
fn nothing_serves_while_draining() {
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Ready]);
    readiness.draining.cancel();
    for service in ["", MODELS, INFERENCE, "kr.model/a"] {
        assert_eq!(readiness.of(service), NOT_SERVING, "{service}");
    }
}

#[tokio::test]
async fn check_of_an_unknown_name_is_not_found() {
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Ready]);
    let request = HealthCheckRequest {
        service: "nobody".to_owned(),
    };
    assert_eq!(
        readiness.check(Request::new(request)).await.unwrap_err().code(),
        Code::NotFound
    );
}

async fn watch_of(readiness: &Readiness, service: &str) -> <Readiness as Health>::WatchStream {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    readiness.watch(Request::new(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn watchers_see_each_change_once_and_are_let_go_at_the_end() {
    let (sender, readiness) = readiness(&[ModelState::Loading, ModelState::Loading]);
    let mut watch = watch_of(&readiness, "kr.model/a").await;
    let mut next = async || watch.next().await.map(|item| item.unwrap().status());
    assert_eq!(next().await, NOT_SERVING);
    sender.send_replace(models(&[ModelState::Loading, ModelState::Ready]));
    sender.send_replace(models(&[ModelState::Ready, ModelState::Ready]));
    assert_eq!(next().await, SERVING);
    readiness.draining.cancel();
    assert_eq!(next().await, NOT_SERVING);
    readiness.closing.cancel();
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn watch_of_an_unknown_name_stays_open() {
    let (_sender, readiness) = readiness(&[ModelState::Ready, ModelState::Ready]);
    let mut watch = watch_of(&readiness, "nobody").await;
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    assert!(futures::FutureExt::now_or_never(watch.next()).is_none(), "still open");
}
