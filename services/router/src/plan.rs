//! From a configuration to what the process is made of: tokenizers loaded, keys read, workers laid out. Everything that can
//! still be wrong with a configuration shows here, together, before anything is bound.

mod local_worker;

use std::path::PathBuf;
use std::sync::Arc;

use kr_boot::config::{self, Loaded, Problem};
use kr_boot::exit::with_causes;
use kr_tokenizer::Bundle;

use crate::adaptive::Bounds;
use crate::auth::ApiKeys;
use crate::catalog::{Catalog, ServedModel, context_of};
use crate::coalesce::Coalescing;
use crate::config::{Config, ModelConfig};
use crate::dispatch::ModelSetup;
use crate::queue::QueueLimits;
use crate::sequence::{ModelIndex, StreamLimits};
use crate::workers::{ExpectedIdentity, LocalWorker, SocketDir, WatchdogLimits, WorkerOrigin, WorkerSetup};

/// What the process is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) api_keys: ApiKeys,
    /// The workers' executable, if any is to be started.
    program: Option<PathBuf>,
}

impl Plan {
    /// Loads what the configuration names.
    ///
    /// # Errors
    /// All problems together, each with the setting it comes from.
    pub(crate) fn make(loaded: &Loaded<Config>) -> Result<Self, config::Error> {
        let config = &loaded.value;
        let mut problems = Vec::new();
        let mut note = |key: &str, value: String, error: &(dyn std::error::Error + 'static), cure: &str| {
            let (message, cure) = message_and_cure(error, cure);
            let mut problem = Problem::new(key, value, message, cure);
            problem.origin = loaded.origin(key);
            problems.push(problem);
        };
        let mut models = Vec::new();
        for (index, model) in config.models.iter().enumerate() {
            match Bundle::load(&model.folder()) {
                Ok(bundle) => models.push(served(index, model, bundle)),
                Err(error) => {
                    let value = format!("{:?}", model.path.display().to_string());
                    note(
                        &format!("models.{index}.path"),
                        value,
                        &error,
                        "repair the model's folder",
                    );
                }
            }
        }
        let mut api_keys = ApiKeys::default();
        if let Some(path) = &config.auth.api_keys_file {
            match ApiKeys::read(path) {
                Ok(keys) => api_keys = keys,
                Err(error) => {
                    let value = format!("{:?}", path.display().to_string());
                    note("auth.api_keys_file", value, &error, "correct the file");
                }
            }
        }
        let mut program = None;
        if config.models.iter().any(spawns) {
            match LocalWorker::find_program(config.worker.binary.as_deref()) {
                Ok(found) => program = Some(found),
                Err(error) => note(
                    "worker.binary",
                    "nothing".to_owned(),
                    &error,
                    "set it to the kr-worker executable",
                ),
            }
        }
        if !problems.is_empty() {
            return Err(config::Error::Invalid(problems));
        }
        Ok(Self {
            catalog: Arc::new(Catalog::new(models)),
            api_keys,
            program,
        })
    }

    /// Lays out the workers of every model.
    pub(crate) fn setups(&self, config: &Config, sockets: &Arc<SocketDir>) -> Vec<ModelSetup> {
        let models = self.catalog.models().iter().zip(&config.models);
        models
            .map(|(served, model)| self.setup(config, (served, model), sockets))
            .collect()
    }

    fn setup(&self, config: &Config, model: (&ServedModel, &ModelConfig), sockets: &Arc<SocketDir>) -> ModelSetup {
        let (served, model) = model;
        let mut origins = Vec::new();
        for group in model.worker_groups() {
            if let Some(Ok(address)) = group.address.as_ref().map(|address| address.parse()) {
                origins.push(WorkerOrigin::Remote(address));
            } else if let Some(program) = &self.program {
                let settings = config.worker.settings(group.settings);
                let local = local_worker::lay_out(config, (model, &settings), (program.clone(), sockets.clone()));
                origins.extend((0..group.spawn.unwrap_or(1)).map(|_| WorkerOrigin::Local(local.clone())));
            }
        }
        let workers = origins.into_iter().enumerate().map(|(number, origin)| WorkerSetup {
            name: format!("{}-{number}", served.name).into(),
            origin,
            ready_timeout: config.worker.start_timeout,
        });
        ModelSetup {
            name: served.name.clone(),
            identity: ExpectedIdentity {
                model_digest: model.digest.as_deref().map(Into::into),
                tokenizer_digest: Some(served.bundle.digest().into()),
            },
            queue: QueueLimits {
                capacity: config.queue.capacity,
                capacity_per_tenant: config.queue.capacity_per_tenant.unwrap_or(usize::MAX),
                ageing: config.queue.ageing,
                max_wait_without_worker: config.queue.max_wait,
                turn_tokens: config.queue.turn_tokens.into(),
                refuse_late: config.queue.refuse_late,
            },
            policy: config.placement.parse().unwrap_or_default(),
            seed: getrandom::u64().unwrap_or_default(),
            batch: Bounds {
                least: config.batch.min_sequences,
                most: config.batch.max_sequences,
                token_time: Some(config.batch.token_time).filter(|time| !time.is_zero()),
            },
            hold: config.batch.hold,
            coalescing: Coalescing {
                enabled: config.coalescing.enabled,
                across_tenants: config.coalescing.across_tenants,
            },
            stream: StreamLimits::default(),
            watchdog: WatchdogLimits::default(),
            workers: workers.collect(),
        }
    }
}

fn served(index: usize, model: &ModelConfig, bundle: Bundle) -> ServedModel {
    ServedModel {
        index: ModelIndex(index),
        name: model.served_name().into(),
        aliases: model.aliases.clone(),
        bundle: Arc::new(bundle),
        context_tokens: context_of(&model.folder()),
    }
}

fn spawns(model: &ModelConfig) -> bool {
    model.worker_groups().iter().any(|group| group.spawn.is_some())
}

/// Splits an error's text into what is wrong, its causes included, and the cure after the semicolon; `otherwise` where it
/// names none.
fn message_and_cure(error: &(dyn std::error::Error + 'static), otherwise: &str) -> (String, String) {
    let text = error.to_string();
    match text.split_once("; ") {
        Some((_, cure)) => (
            with_causes(error).replacen(&format!("; {cure}"), "", 1),
            cure.to_owned(),
        ),
        None => (with_causes(error), otherwise.to_owned()),
    }
}
