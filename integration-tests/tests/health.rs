//! Health by grpc.health.v1 and by HTTP: liveness is the process's, readiness its workers'.

use kr_integration_tests::{Service, eventually};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn health(service: &Service, name: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: name.into() };
    let answer = HealthClient::new(service.channel()).check(request).await;
    answer
        .map(|answer| answer.into_inner().status())
        .map_err(|status| status.code())
}

#[tokio::test]
async fn the_process_its_services_and_its_models_are_serving() {
    let service = Service::fake(1, "").start().await;
    for name in [
        "",
        "kr.serve.v1.InferenceService",
        "kr.serve.v1.ModelService",
        "kr.model/demo",
    ] {
        eventually(name, || async {
            (health(&service, name).await == Ok(ServingStatus::Serving)).then_some(())
        })
        .await;
    }
    assert_eq!(health(&service, "kr.model/nobody").await, Err(Code::NotFound));
    assert_eq!(service.get("/healthz").await.0, 200);
    assert_eq!(service.get("/readyz").await.0, 200);
    assert_eq!(service.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn without_a_worker_it_lives_but_is_not_ready() {
    let service = Service::fake(1, "load_ms=1500").start().await;
    eventually("readiness", || async {
        (service.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    let model = HealthCheckRequest {
        service: "kr.model/demo".into(),
    };
    let mut changes = HealthClient::new(service.channel())
        .watch(model)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );

    service.signal_worker(service.worker_ids()[0], "KILL");
    let (_, why) = eventually("no readiness", || async {
        let page = service.get("/readyz").await;
        (page.0 == 503).then_some(page)
    })
    .await;
    assert!(why.contains("demo"), "it names the model: {why}");
    assert_eq!(service.get("/healthz").await.0, 200);
    assert_eq!(health(&service, "").await, Ok(ServingStatus::Serving));
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );

    eventually("readiness again", || async {
        (service.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(
        changes.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
}
