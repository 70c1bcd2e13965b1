//! Starts the engine with the configured model, and tells everyone who waits where it stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use kr_boot::exit::with_causes;
use kr_contract::WorkerInstanceId;
use kr_engine::fake::{FakeModel, FakeModelConfig};
use kr_engine::scheduler::SchedulerConfig;
use kr_engine::{Engine, EngineConfig, EngineHandle, EngineThread};
use tokio::sync::watch;

use crate::config::{Config, LimitsConfig, PrefixCacheConfig};
use crate::fake::{self, FakeSpec};
use crate::metrics::Metrics;
use crate::model;
use crate::profile::{ModelFacts, Profile};
use crate::readiness::Readiness;

/// How often a load that goes on is mentioned in the log.
const LOAD_REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// An engine whose model is loading.
#[derive(Debug)]
pub(crate) struct Starting {
    thread: EngineThread,
    facts: Receiver<ModelFacts>,
    max_step_tokens: u32,
}

/// What is known before the model is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) instance: WorkerInstanceId,
    pub(crate) started: Instant,
}

/// Starts the engine's thread; the model is loaded there.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn start(config: &Config) -> Result<Starting, kr_engine::Error> {
    let limits = config.limits;
    let engine = EngineConfig {
        scheduler: SchedulerConfig {
            max_step_tokens: limits.max_step_tokens,
            max_sequences: limits.max_sequences,
            max_waiting: limits.max_waiting,
            decode_step_target: limits.decode_step_target(),
            max_preemptions: limits.max_preemptions,
        },
        warm_up: config.warms_up(),
        ..EngineConfig::default()
    };
    let (report, facts) = sync_channel(1);
    let thread = match &config.fake {
        Some(spec) => {
            let fake = Fake {
                spec: spec.clone(),
                folder: config.folder(),
                limits,
                prefix_cache: config.prefix_cache,
            };
            Engine::spawn(engine, move || fake.load(&report))?
        }
        None => {
            let source = model::Source::of(config);
            Engine::spawn(engine, move || source.load(&report))?
        }
    };
    Ok(Starting {
        thread,
        facts,
        max_step_tokens: limits.max_step_tokens,
    })
}

impl Starting {
    /// Starts an engine on what `load` returns.
    #[cfg(test)]
    pub(crate) fn with<M, L, E>(load: L) -> Self
    where
        M: kr_engine::model::Model,
        L: FnOnce(SyncSender<ModelFacts>) -> Result<M, E> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (report, facts) = sync_channel(1);
        Self {
            thread: Engine::spawn(EngineConfig::default(), move || load(report)).unwrap(),
            facts,
            max_step_tokens: 512,
        }
    }

    /// Returns a handle; it works while the model is loading.
    pub(crate) fn handle(&self) -> EngineHandle {
        self.thread.handle()
    }

    /// Blocks until the engine has ended, and keeps `readiness` up to date meanwhile.
    pub(crate) fn supervise(mut self, life: Life, readiness: &watch::Sender<Readiness>, metrics: &Metrics) {
        let limits = loop {
            match self.thread.wait_loaded(LOAD_REPORT_INTERVAL) {
                Ok(limits) => break limits,
                Err(kr_engine::Error::LoadTimeout(_)) => {
                    tracing::info!(
                        elapsed_s = life.started.elapsed().as_secs(),
                        "the model is still loading"
                    );
                }
                Err(error) => {
                    let reason = with_causes(&error).into();
                    readiness.send_replace(match model::is_at_fault(&error) {
                        true => Readiness::NotLoaded(reason),
                        false => Readiness::Failed(reason),
                    });
                    return;
                }
            }
        };
        let Ok(model) = self.facts.recv() else {
            readiness.send_replace(Readiness::NotLoaded("the model told nothing of itself".into()));
            return;
        };
        let profile = Profile {
            instance: life.instance,
            model,
            limits,
            max_step_tokens: self.max_step_tokens,
            warm_up: self.thread.warm_up(),
            load_time: life.started.elapsed(),
        };
        metrics.loaded(&profile);
        readiness.send_if_modified(|readiness| readiness.finish_loading(Arc::new(profile)));
        readiness.send_replace(match self.thread.join() {
            Ok(()) => Readiness::Drained,
            Err(error) => Readiness::Failed(with_causes(&error).into()),
        });
    }
}

/// What a fake model is made of.
struct Fake {
    spec: FakeSpec,
    folder: Option<PathBuf>,
    limits: LimitsConfig,
    prefix_cache: PrefixCacheConfig,
}

impl Fake {
    fn load(mut self, report: &SyncSender<ModelFacts>) -> Result<FakeModel, fake::Error> {
        let facts = self.spec.facts(self.folder.as_deref())?;
        take_time(self.spec.load_time());
        if self.spec.fails_to_load() {
            return Err(fake::Error::Told);
        }
        // The receiver is gone only where the process is ending.
        let _ = report.send(facts);
        let mut model = limited(self.spec.model(), self.limits);
        model.limits.block_tokens = self.prefix_cache.block_tokens;
        if let Some(blocks) = self.prefix_cache.blocks {
            model.limits.store_blocks = blocks;
        }
        Ok(FakeModel::new(model))
    }
}

/// What a fake has for KV where nothing says how much.
const FAKE_KV_BYTES: u64 = 2 << 30;

fn limited(mut fake: FakeModelConfig, limits: LimitsConfig) -> FakeModelConfig {
    let context = limits.max_context_tokens.unwrap_or(fake.limits.context_tokens);
    fake.limits.context_tokens = context;
    fake.limits.bucket_tokens = std::iter::successors(Some(256_u32), |bucket| bucket.checked_mul(2))
        .take_while(|bucket| *bucket < context)
        .chain([context])
        .collect();
    fake.limits.max_sequences = limits.max_sequences;
    fake.limits.kv_budget_bytes = limits.kv_budget_bytes.unwrap_or(FAKE_KV_BYTES);
    if let Some(depth) = limits.pipeline_depth {
        fake.limits.pipeline_depth = depth;
    }
    fake
}

#[expect(
    clippy::disallowed_methods,
    reason = "on the engine's thread, and stands for the time a load takes"
)]
fn take_time(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_has_the_configured_limits() {
        let limits = LimitsConfig {
            max_sequences: 3,
            max_context_tokens: Some(700),
            kv_budget_bytes: Some(9000),
            pipeline_depth: Some(1),
            ..LimitsConfig::default()
        };
        let limits = limited(FakeModelConfig::default(), limits).limits;
        assert_eq!(limits.bucket_tokens, [256, 512, 700]);
        assert_eq!((limits.context_tokens, limits.max_sequences), (700, 3));
        assert_eq!((limits.kv_budget_bytes, limits.pipeline_depth), (9000, 1));
    }
}
