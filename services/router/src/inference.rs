//! The `InferenceService` RPCs: translation only. What a request goes through is in `generate`.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt as _};
use kr_proto::serve as pb;
use kr_proto::serve::inference_service_server::InferenceService;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status};

use crate::admission::Admission;
use crate::call::Call;
use crate::catalog::{Catalog, ServedModel};
use crate::dispatch::Dispatcher;
use crate::error::Error;
use crate::generate::Answer;
use crate::metrics::Metrics;
use crate::record::Operation;
use crate::relay::Piece;
use crate::server::log_refusal;
use crate::validate::Validator;
use crate::{chat, generate, status};

/// What every inference call needs.
#[derive(Debug)]
pub(crate) struct Inference {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) validator: Validator,
    pub(crate) admission: Admission,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) metrics: Arc<Metrics>,
}

type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for Inference {
    type GenerateStream = Pieces<pb::GenerateResponse>;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let call = self.call(&request)?;
        let (model, asked) = generate::asked(request.into_inner());
        self.answer(call, Operation::Generate, (model, asked))
            .await
            .map(respond)
    }

    type ChatStream = Pieces<pb::ChatResponse>;

    async fn chat(&self, request: Request<pb::ChatRequest>) -> Result<Response<Self::ChatStream>, Status> {
        let call = self.call(&request)?;
        let (model, asked) = chat::asked(request.into_inner());
        self.answer(call, Operation::Chat, (model, asked)).await.map(respond)
    }

    async fn tokenize(&self, request: Request<pb::TokenizeRequest>) -> Result<Response<pb::TokenizeResponse>, Status> {
        let call = self.call(&request)?;
        let tokenized = self.tokenize_text(request.into_inner()).await;
        tokenized.map(Response::new).map_err(|error| self.refuse(&call, &error))
    }

    async fn detokenize(
        &self,
        request: Request<pb::DetokenizeRequest>,
    ) -> Result<Response<pb::DetokenizeResponse>, Status> {
        let call = self.call(&request)?;
        let text = self.detokenize_ids(request.into_inner()).await;
        text.map(Response::new).map_err(|error| self.refuse(&call, &error))
    }
}

impl Inference {
    fn call<T>(&self, request: &Request<T>) -> Result<Call, Status> {
        Call::of(request).map_err(|error| {
            let nobody = kr_contract::RequestId(0);
            log_refusal(&error, nobody);
            status::status(&error, nobody)
        })
    }

    /// Counts, logs and translates an error that came before the queue.
    pub(crate) fn refuse(&self, call: &Call, error: &Error) -> Status {
        self.metrics.requests.refused(status::classify(error).1);
        log_refusal(error, call.request_id);
        status::status(error, call.request_id)
    }

    /// Returns the longest sequence that a model's workers can run; what config.json says until one is ready.
    pub(crate) fn longest_sequence(&self, model: &ServedModel) -> Option<u32> {
        let snapshot = self.dispatcher.snapshot();
        let profile = snapshot.get(model.index.0).and_then(|model| model.profile.clone());
        match profile {
            Some(profile) => {
                let largest_place = profile.bucket_tokens.last().copied().unwrap_or(u32::MAX);
                Some(profile.context_tokens.min(largest_place))
            }
            None => model.context_tokens,
        }
    }
}

fn respond<T: From<Piece> + 'static>(answer: Answer) -> Response<Pieces<T>> {
    let traceparent = answer
        .traceparent
        .and_then(|text| AsciiMetadataValue::try_from(text).ok());
    let pieces: Pieces<T> = Box::pin(answer.relay.into_stream().map(|piece| piece.map(T::from)));
    let mut response = Response::new(pieces);
    if let Some(traceparent) = traceparent {
        response.metadata_mut().insert("traceparent", traceparent);
    }
    response
}
