//! A server without a model: it repeats what it is told, fails or never ends, as the text says.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kr_proto::serve::inference_service_server::{InferenceService, InferenceServiceServer};
use kr_proto::serve::model_service_server::{ModelService, ModelServiceServer};
use kr_proto::serve::{
    ChatRequest, ChatResponse, DetokenizeRequest, DetokenizeResponse, Finish, FinishReason, GenerateRequest,
    GenerateResponse, ListModelsRequest, ListModelsResponse, Model, ModelState, Receipt, TokenizeRequest,
    TokenizeResponse, Usage, generate_request, tokenize_request,
};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A prompt with this word is answered with one word and then nothing, until the call is dropped.
pub(crate) const ENDLESS: &str = "endless";
/// A prompt with this word is answered with words until the call is dropped.
pub(crate) const FLOOD: &str = "flood";
/// A prompt with this word is refused.
pub(crate) const REFUSED: &str = "refused";

/// A server on a port of its own; ends with the runtime.
#[derive(Clone, Default)]
pub(crate) struct FakeServer {
    address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    chats: Mutex<Vec<ChatRequest>>,
    generates: Mutex<Vec<(GenerateRequest, Option<String>)>>,
    cancelled: Notify,
}

impl FakeServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            seen: Arc::default(),
        };
        let router = tonic::transport::Server::builder()
            .add_service(InferenceServiceServer::new(server.clone()))
            .add_service(ModelServiceServer::new(server.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        server
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the last conversation as role and content.
    pub(crate) async fn last_chat(&self) -> Vec<(String, String)> {
        let chats = self.seen.chats.lock().await;
        let messages = chats.last().unwrap().messages.iter();
        messages
            .map(|message| (message.role.clone(), message.content.clone()))
            .collect()
    }

    /// Returns the last request with the authorization it came with.
    pub(crate) async fn last_generate(&self) -> (GenerateRequest, Option<String>) {
        self.seen.generates.lock().await.last().unwrap().clone()
    }

    /// Waits until an endless answer was cancelled.
    pub(crate) async fn cancelled(&self) {
        crate::program::within(self.seen.cancelled.notified()).await;
    }

    /// Answers `prompt` by what it says.
    fn answer(&self, prompt: &str) -> Result<ReceiverStream<Result<Piece, Status>>, Status> {
        if prompt.contains(REFUSED) {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation("parameters.top_p", "is 2, allowed is up to 1");
            return Err(Status::with_error_details(
                tonic::Code::InvalidArgument,
                "1 field is invalid",
                details,
            ));
        }
        let (pieces, receiver) = mpsc::channel(4);
        let words: Vec<_> = prompt.split_inclusive(' ').map(str::to_owned).collect();
        let (endless, flood, seen) = (prompt.contains(ENDLESS), prompt.contains(FLOOD), self.seen.clone());
        tokio::spawn(async move {
            let mut id = 0;
            for word in words.iter().cycle().take(if flood { usize::MAX } else { words.len() }) {
                if pieces
                    .send(Ok(Piece {
                        word: word.clone(),
                        id,
                        finish: None,
                    }))
                    .await
                    .is_err()
                {
                    break;
                }
                id += 1;
                if endless {
                    break;
                }
            }
            if endless || flood {
                pieces.closed().await;
                seen.cancelled.notify_one();
                return;
            }
            let _ = pieces
                .send(Ok(Piece {
                    word: String::new(),
                    id,
                    finish: Some(finish(id)),
                }))
                .await;
        });
        Ok(ReceiverStream::new(receiver))
    }
}

struct Piece {
    word: String,
    id: u32,
    finish: Option<Finish>,
}

fn finish(tokens: u32) -> Finish {
    Finish {
        reason: FinishReason::Stop.into(),
        usage: Some(Usage {
            prompt_tokens: 3,
            completion_tokens: tokens,
            total_tokens: tokens + 3,
            cached_tokens: 0,
        }),
        receipt: Some(Receipt {
            queue_time: Duration::from_millis(2).try_into().ok(),
            seed: 7,
            attempts: 1,
            ..Receipt::default()
        }),
        request_usage: None,
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for FakeServer {
    type GenerateStream = Answers<GenerateResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let request = request.into_inner();
        self.seen.generates.lock().await.push((request.clone(), authorization));
        let prompt = match request.input {
            Some(generate_request::Input::Prompt(text)) => text,
            _ => "one two".into(),
        };
        let stream = self.answer(&prompt)?.map(|piece| {
            piece.map(|piece| GenerateResponse {
                request_id: "0123".into(),
                text: piece.word,
                token_ids: vec![piece.id],
                finish: piece.finish,
                ..GenerateResponse::default()
            })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn chat(&self, request: Request<ChatRequest>) -> Result<Response<Self::ChatStream>, Status> {
        let request = request.into_inner();
        let last = request.messages.last().unwrap().content.clone();
        self.seen.chats.lock().await.push(request);
        let stream = self.answer(&format!("Echo {last}"))?.map(|piece| {
            piece.map(|piece| ChatResponse {
                text: piece.word,
                token_ids: vec![piece.id],
                finish: piece.finish,
                ..ChatResponse::default()
            })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let text = match request.into_inner().input {
            Some(tokenize_request::Input::Text(text)) => text,
            _ => String::new(),
        };
        Ok(Response::new(TokenizeResponse {
            token_ids: (0..).zip(text.split(' ')).map(|(id, _)| id).collect(),
            context_tokens: 2048,
        }))
    }

    async fn detokenize(&self, _: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        Err(Status::unimplemented("no command needs it"))
    }
}

#[tonic::async_trait]
impl ModelService for FakeServer {
    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let model = Model {
            name: "echo".into(),
            state: ModelState::Ready.into(),
            architecture: "LlamaForCausalLM".into(),
            context_tokens: 2048,
            ..Model::default()
        };
        Ok(Response::new(ListModelsResponse { models: vec![model] }))
    }
}
