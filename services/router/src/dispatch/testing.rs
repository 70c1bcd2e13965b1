//! What tests of the scheduling side share.

use std::sync::Arc;
use std::time::Duration;

use kr_contract::{RequestId, SamplingParams};

use super::ModelSetup;
use crate::adaptive::Bounds;
use crate::clock;
use crate::coalesce::Coalescing;
use crate::metrics::Metrics;
use crate::policy::PolicyKind;
use crate::queue::QueueLimits;
use crate::sequence::{ModelIndex, Priority, SequenceRequest, StreamLimits, Tenant};
use crate::workers::{Address, ExpectedIdentity, WatchdogLimits, WorkerOrigin, WorkerSetup};

/// Returns a request for model 0.
pub(crate) fn request(max_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        request_id: RequestId(1),
        model: ModelIndex(0),
        tenant: Tenant(Arc::from("default")),
        priority: Priority::Normal,
        prompt: Arc::from([1, 2, 3]),
        params: SamplingParams::default(),
        end_tokens: Arc::from([0]),
        stop_tokens: Vec::new(),
        max_tokens,
        cache_salt: Vec::new(),
        bypass_prefix_cache: false,
        shared_under: None,
        prompt_logprobs: None,
        arrived: clock::now(),
        deadline: None,
        traceparent: None,
    }
}

/// Returns instruments that go nowhere.
pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&opentelemetry::global::meter("test")))
}

/// Returns a model whose workers somebody else runs.
pub(crate) fn setup(addresses: &[Address]) -> ModelSetup {
    let workers = addresses.iter().enumerate().map(|(index, address)| WorkerSetup {
        name: format!("w{index}").into(),
        origin: WorkerOrigin::Remote(address.clone()),
        ready_timeout: Duration::from_secs(10),
    });
    ModelSetup {
        name: Arc::from("model"),
        identity: ExpectedIdentity::default(),
        queue: QueueLimits::default(),
        policy: PolicyKind::LeastLoad,
        seed: 1,
        batch: Bounds::default(),
        hold: Duration::ZERO,
        coalescing: Coalescing::default(),
        stream: StreamLimits::default(),
        watchdog: WatchdogLimits::default(),
        workers: workers.collect(),
    }
}
