//! Requests and whole answers.

use std::collections::BTreeMap;

use kr_proto::serve::{
    ChatMessage, ChatRequest, Finish, GenerateRequest, GenerateResponse, Parameters, TokenLogprobs,
    generate_request::Input,
};
use tokio_stream::StreamExt;
use tonic::Status;

use crate::{ANSWER_PATIENCE, Service};

/// A whole answer, checked while it was collected: indices without gap or repeat, exactly one end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// All text.
    pub text: String,
    /// All ids.
    pub ids: Vec<u32>,
    /// One for each id, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// One for each token of the prompt but the first, if asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// The end.
    pub finish: Finish,
}

/// Returns parameters for a greedy answer of at most `max_tokens`, computed for this request alone.
#[must_use]
pub fn greedy(max_tokens: u32) -> Parameters {
    Parameters {
        temperature: Some(0.0),
        max_tokens: Some(max_tokens),
        disable_coalescing: Some(true),
        ..Parameters::default()
    }
}

/// Returns a request to continue `text`.
#[must_use]
pub fn prompt(text: &str, parameters: Parameters) -> GenerateRequest {
    let input = Some(Input::Prompt(text.into()));
    GenerateRequest {
        input,
        parameters: Some(parameters),
        ..GenerateRequest::default()
    }
}

/// Runs a `Generate` to its end.
///
/// # Errors
/// The call's or the stream's status.
///
/// # Panics
/// When the stream breaks its promises or hangs.
pub async fn generate(service: &Service, request: GenerateRequest) -> Result<Answer, Status> {
    let work = async {
        let mut stream = service.inference().generate(request).await?.into_inner();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.next().await {
            pieces.push(piece?);
        }
        Ok(complete(pieces))
    };
    tokio::time::timeout(ANSWER_PATIENCE, work).await.expect("a stream ends")
}

/// Runs a `Generate` for several answers to its end and returns them by choice.
///
/// # Errors
/// The call's or the stream's status.
///
/// # Panics
/// When the stream breaks its promises or hangs.
pub async fn generate_all(service: &Service, request: GenerateRequest) -> Result<Vec<Answer>, Status> {
    let work = async {
        let mut stream = service.inference().generate(request).await?.into_inner();
        let mut pieces: BTreeMap<u32, Vec<GenerateResponse>> = BTreeMap::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            pieces.entry(piece.choice_index).or_default().push(piece);
        }
        assert!(
            pieces.keys().copied().eq(0..u32::try_from(pieces.len()).expect("few")),
            "choices are numbered from 0"
        );
        Ok(pieces.into_values().map(complete).collect())
    };
    tokio::time::timeout(ANSWER_PATIENCE, work).await.expect("a stream ends")
}

/// Runs a `Chat` with one user message to its end.
///
/// # Errors
/// The call's or the stream's status.
///
/// # Panics
/// When the stream breaks its promises or hangs.
pub async fn chat(service: &Service, content: &str, parameters: Parameters) -> Result<Answer, Status> {
    let message = ChatMessage {
        role: "user".into(),
        content: content.into(),
    };
    let request = ChatRequest {
        messages: vec![message],
        parameters: Some(parameters),
        ..ChatRequest::default()
    };
    let work = async {
        let mut stream = service.inference().chat(request).await?.into_inner();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            pieces.push(GenerateResponse {
                request_id: piece.request_id,
                choice_index: piece.choice_index,
                start_index: piece.start_index,
                text: piece.text,
                token_ids: piece.token_ids,
                logprobs: piece.logprobs,
                prompt_logprobs: piece.prompt_logprobs,
                finish: piece.finish,
            });
        }
        Ok(complete(pieces))
    };
    tokio::time::timeout(ANSWER_PATIENCE, work).await.expect("a stream ends")
}

/// Puts the pieces of one choice together.
///
/// # Panics
/// When they have a gap, a repeat, no end or more than one, or ids that change.
#[must_use]
pub fn complete(pieces: Vec<GenerateResponse>) -> Answer {
    let mut answer = Answer {
        text: String::new(),
        ids: Vec::new(),
        logprobs: Vec::new(),
        prompt_logprobs: Vec::new(),
        finish: Finish::default(),
    };
    let count = pieces.len();
    for (index, piece) in pieces.into_iter().enumerate() {
        assert_eq!(piece.request_id.len(), 32, "every piece names its request");
        assert_eq!(piece.start_index as usize, answer.ids.len(), "no gap and no repeat");
        assert_eq!(
            piece.finish.is_some(),
            index + 1 == count,
            "the last piece and no other carries the end"
        );
        answer.text.push_str(&piece.text);
        assert!(
            piece.prompt_logprobs.is_empty() || answer.ids.is_empty(),
            "the prompt's log probabilities come first"
        );
        answer.ids.extend(piece.token_ids);
        answer.prompt_logprobs.extend(piece.prompt_logprobs);
        answer.logprobs.extend(piece.logprobs);
        answer.finish = piece.finish.unwrap_or_default();
    }
    assert!(count > 0, "a stream has at least its end");
    let usage = answer.finish.usage.expect("an end has its usage");
    assert_eq!(
        usage.completion_tokens as usize,
        answer.ids.len(),
        "usage counts the tokens sent"
    );
    assert!(answer.finish.receipt.is_some(), "an end has its receipt");
    answer
}
