//! The `ModelService` RPCs: what is served, from the dispatcher's snapshot.

use std::sync::Arc;

use kr_proto::serve as pb;
use kr_proto::serve::model_service_server::ModelService;
use tonic::{Request, Response, Status};

use crate::catalog::{Catalog, ServedModel};
use crate::dispatch::{Dispatcher, ModelSnapshot, ModelState};

/// Answers about models.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) dispatcher: Dispatcher,
}

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(&self, _: Request<pb::ListModelsRequest>) -> Result<Response<pb::ListModelsResponse>, Status> {
        let snapshot = self.dispatcher.snapshot();
        let pairs = self.catalog.models().iter().zip(snapshot.iter());
        let models = pairs.map(|(served, now)| model(served, now)).collect();
        Ok(Response::new(pb::ListModelsResponse { models }))
    }
}

fn model(served: &ServedModel, now: &ModelSnapshot) -> pb::Model {
    let state = match now.state {
        ModelState::Loading => pb::ModelState::Loading,
        ModelState::Ready => pb::ModelState::Ready,
        ModelState::Failed => pb::ModelState::Failed,
        ModelState::Draining => pb::ModelState::Draining,
    };
    let profile = now.profile.as_deref();
    pb::Model {
        name: served.name.to_string(),
        aliases: served.aliases.clone(),
        state: state.into(),
        message: now.message.as_deref().unwrap_or_default().to_owned(),
        architecture: profile
            .map(|profile| profile.architecture.to_string())
            .unwrap_or_default(),
        parameter_count: profile.map_or(0, |profile| profile.parameter_count),
        weights: profile.map(|profile| profile.weights.to_string()).unwrap_or_default(),
        context_tokens: profile
            .map(|profile| profile.context_tokens)
            .or(served.context_tokens)
            .unwrap_or(0),
        vocabulary_size: profile.map_or_else(
            || u32::try_from(served.bundle.vocab_size()).unwrap_or(u32::MAX),
            |profile| profile.vocabulary_size,
        ),
        model_digest: profile
            .map(|profile| profile.model_digest.to_string())
            .unwrap_or_default(),
        tokenizer_digest: served.bundle.digest().to_owned(),
        numerics_fingerprint: profile
            .map(|profile| profile.fingerprint.to_string())
            .unwrap_or_default(),
        ready_workers: now.ready_workers,
        configured_workers: now.configured_workers,
        max_sequences: now.max_sequences,
    }
}
