//! Tokenize and Detokenize: answered here, no worker takes part.

use kr_proto::serve as pb;
use kr_proto::serve::tokenize_request::Input;
use kr_tokenizer::DecodeOptions;

use crate::error::Error;
use crate::inference::Inference;
use crate::validate::Prompt;

impl Inference {
    /// Turns text, or a conversation, into token ids as Generate and Chat would.
    pub(crate) async fn tokenize_text(&self, request: pb::TokenizeRequest) -> Result<pb::TokenizeResponse, Error> {
        let model = self.catalog.resolve(&request.model)?;
        let prompt = match request.input {
            None => return Err(Error::field("text", "is missing; give text or conversation")),
            // No tokens for no text is an answer here, unlike in Generate.
            Some(Input::Text(text)) if text.is_empty() => Prompt::Ids(Vec::new()),
            Some(Input::Text(text)) if request.parse_special_tokens => Prompt::TrustedText(text),
            Some(Input::Text(text)) => Prompt::Text(text),
            Some(Input::Conversation(conversation)) => {
                let prompt = Prompt::Conversation(conversation.messages);
                let violations = prompt.violations(&model.bundle);
                if !violations.is_empty() {
                    return Err(Error::Invalid(violations));
                }
                prompt
            }
        };
        let ids = self.validator.tokenize(prompt, model).await?;
        Ok(pb::TokenizeResponse {
            token_ids: ids.to_vec(),
            context_tokens: self.longest_sequence(model).unwrap_or(0),
        })
    }

    /// Turns token ids into text.
    pub(crate) async fn detokenize_ids(&self, request: pb::DetokenizeRequest) -> Result<pb::DetokenizeResponse, Error> {
        let model = self.catalog.resolve(&request.model)?;
        let options = DecodeOptions {
            keep_special_tokens: !request.skip_special_tokens,
        };
        let text = self.validator.detokenize(request.token_ids, options, model).await?;
        Ok(pb::DetokenizeResponse { text })
    }
}
