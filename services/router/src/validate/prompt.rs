//! From what a client sends to token ids. Long texts are tokenized off the async threads, a few at a time.

use std::sync::Arc;
use std::time::SystemTime;

use kr_contract::TokenId;
use kr_proto::serve as pb;
use kr_tokenizer::{Bundle, ChatOptions, Conversation, DecodeOptions, EncodeOptions, Message};

use super::Validator;
use crate::catalog::ServedModel;
use crate::error::{Error, Violation};

/// Texts above this leave the async threads: tokenizing them takes about as long as a tick of the runtime may.
const LONG_TEXT_BYTES: usize = 2048;

/// The same for detokenizing, which is quicker.
const LONG_TEXT_TOKENS: usize = 2048;

/// What a message of a conversation costs beside its text, in bytes of text.
const MESSAGE_BYTES: usize = 32;

/// Messages at fault that are named; a client learns nothing from thousands of them, and they would not fit a status.
const MAX_NAMED_MESSAGES: usize = 8;

/// Characters of what a template says; a status travels in headers, whose size is bounded.
const MAX_DESCRIPTION: usize = 300;

/// A prompt in one of its forms.
#[derive(Debug, Clone)]
pub(crate) enum Prompt {
    /// The request has none.
    Missing,
    /// A text; control tokens written in it stay text.
    Text(String),
    /// A text whose control tokens count as such; only Tokenize takes one.
    TrustedText(String),
    /// Token ids.
    Ids(Vec<TokenId>),
    /// A conversation for the chat template.
    Conversation(Vec<pb::ChatMessage>),
}

impl Prompt {
    /// Returns the field of the request that holds it.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Missing | Self::Text(_) | Self::TrustedText(_) => "prompt",
            Self::Ids(_) => "prompt_ids",
            Self::Conversation(_) => "messages",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Missing | Self::Ids(_) => 0,
            Self::Text(text) | Self::TrustedText(text) => text.len(),
            Self::Conversation(messages) => messages
                .iter()
                .map(|message| MESSAGE_BYTES + message.role.len() + message.content.len())
                .sum(),
        }
    }

    /// Returns what is wrong with it as it stands.
    pub(crate) fn violations(&self, bundle: &Bundle) -> Vec<Violation> {
        let field = self.field();
        match self {
            Self::Missing => vec![Violation::new(field, "is missing; give prompt or prompt_ids")],
            Self::Text(text) | Self::TrustedText(text) => text_violations(field, text),
            Self::Ids(ids) if ids.is_empty() => vec![Violation::new(field, "is empty")],
            Self::Ids(ids) => {
                let vocabulary = bundle.vocab_size();
                let stray = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocabulary);
                let named = stray.map(|(index, id)| {
                    let description = format!("is {id}, the vocabulary has {vocabulary} tokens");
                    Violation::new(format!("prompt_ids.ids[{index}]"), description)
                });
                named.into_iter().collect()
            }
            Self::Conversation(messages) if messages.is_empty() => vec![Violation::new(field, "is empty")],
            Self::Conversation(messages) => messages
                .iter()
                .enumerate()
                .flat_map(|(index, message)| message_violations(index, message))
                .take(MAX_NAMED_MESSAGES)
                .collect(),
        }
    }
}

fn text_violations(field: &str, text: &str) -> Vec<Violation> {
    if text.is_empty() {
        return vec![Violation::new(field, "is empty")];
    }
    match text.bytes().position(|byte| byte == 0) {
        Some(offset) => vec![Violation::new(field, format!("has a NUL character at byte {offset}"))],
        None => Vec::new(),
    }
}

fn message_violations(index: usize, message: &pb::ChatMessage) -> Vec<Violation> {
    let mut found = Vec::new();
    let role = &message.role;
    if role.is_empty() || role.len() > 64 || role.contains('\0') {
        let description = "is no role; use system, user or assistant";
        found.push(Violation::new(format!("messages[{index}].role"), description));
    }
    if !message.content.is_empty() {
        found.extend(text_violations(&format!("messages[{index}].content"), &message.content));
    }
    found
}

impl Validator {
    /// Turns a prompt into token ids.
    ///
    /// # Errors
    /// Violations and failed preconditions as the chat template tells; [`Error::ServerBusy`] when no core is free for long.
    pub(crate) async fn tokenize(&self, prompt: Prompt, model: &Arc<ServedModel>) -> Result<Arc<[TokenId]>, Error> {
        if prompt.bytes() <= LONG_TEXT_BYTES {
            return encode(prompt, model);
        }
        let model = model.clone();
        self.long_texts.run(move || encode(prompt, &model)).await
    }

    /// Turns token ids into text.
    ///
    /// # Errors
    /// A violation for an id that is no token; [`Error::ServerBusy`] when no core is free for long.
    pub(crate) async fn detokenize(
        &self,
        ids: Vec<TokenId>,
        options: DecodeOptions,
        model: &Arc<ServedModel>,
    ) -> Result<String, Error> {
        if ids.len() <= LONG_TEXT_TOKENS {
            return decode(&ids, options, model);
        }
        let model = model.clone();
        self.long_texts.run(move || decode(&ids, options, &model)).await
    }
}

fn decode(ids: &[TokenId], options: DecodeOptions, model: &ServedModel) -> Result<String, Error> {
    model.bundle.decode(ids, options).map_err(|error| match error {
        kr_tokenizer::Error::UnknownToken { .. } => Error::field("token_ids", error.to_string()),
        other => Error::internal("detokenizing", other),
    })
}

fn encode(prompt: Prompt, model: &ServedModel) -> Result<Arc<[TokenId]>, Error> {
    let bundle = &model.bundle;
    let text_options = |parse_special_tokens| EncodeOptions {
        add_special_tokens: true,
        parse_special_tokens,
    };
    let field = prompt.field();
    let encoded = match prompt {
        Prompt::Missing => Ok(Vec::new()),
        Prompt::Ids(ids) => Ok(ids),
        Prompt::Text(text) => bundle.encode(&text, text_options(false)),
        Prompt::TrustedText(text) => bundle.encode(&text, text_options(true)),
        Prompt::Conversation(messages) => {
            let messages = messages
                .into_iter()
                .map(|message| Message::new(message.role, message.content))
                .collect();
            let conversation = Conversation {
                messages,
                tools: Vec::new(),
            };
            let options = ChatOptions::at(SystemTime::now());
            bundle.encode_chat(&conversation, &options).map(|prompt| prompt.ids)
        }
    };
    encoded.map(Into::into).map_err(|error| refused(error, field, model))
}

/// Says whose fault a tokenizer's error is.
fn refused(error: kr_tokenizer::Error, field: &'static str, model: &ServedModel) -> Error {
    use kr_tokenizer::Error as Tokenizer;
    match error {
        Tokenizer::NoChatTemplate => Error::NoChatTemplate {
            model: model.name.to_string(),
        },
        Tokenizer::Template { .. } => Error::ChatTemplate {
            model: model.name.to_string(),
            source: error,
        },
        Tokenizer::Message(_)
        | Tokenizer::TemplateFuel
        | Tokenizer::TemplateOutput { .. }
        | Tokenizer::ControlTokenInMessage
        | Tokenizer::ControlTokenInText { .. }
        | Tokenizer::UnknownToken { .. } => {
            // A template's own words may repeat a message of any length.
            let description: String = error.to_string().chars().take(MAX_DESCRIPTION).collect();
            Error::field(field, description)
        }
        other => Error::internal("tokenizing", other),
    }
}
