//! The Chat RPC's own part: a conversation as prompt. The rest is Generate's.

use kr_proto::serve as pb;

use crate::validate::{Asked, Prompt};

/// Takes a Chat message apart: the model's name, and what is asked of it.
pub(crate) fn asked(request: pb::ChatRequest) -> (String, Asked) {
    let asked = Asked {
        prompt: Prompt::Conversation(request.messages),
        parameters: request.parameters.unwrap_or_default(),
        idempotency_key: request.idempotency_key,
    };
    (request.model, asked)
}
