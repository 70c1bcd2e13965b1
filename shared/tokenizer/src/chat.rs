//! From messages to ids by the model's chat template.
//!
//! # Keeping control tokens out of messages
//! A template writes its control tokens as text between the messages' own text, so a message that contains
//! `<|im_end|>` could end itself and speak for somebody else. Here every character of a message that could begin a
//! special token is preceded by a mark, a character that occurs nowhere in the messages or the template. In the rendered
//! text a special token counts only if no mark stands before it; then the marks are removed and the text is encoded with
//! exactly those control tokens. Messages cannot forge this, because they cannot contain the mark and cannot remove it.
//!
//! Without special tokens in the messages the ids are those of the ordinary way, which is to render and then to tokenize.
//! A template that looks into messages may notice the marks and write something else; that is found out by rendering
//! without them. Then only whole special tokens are marked, and if even that is noticed, the messages are refused. What
//! remains: a template that both looks into messages and deletes text from the middle of them could put a special token
//! together from its parts.

mod guard;
mod json;
mod strftime;
mod template;

use std::time::SystemTime;

use serde_json::{Map, Value as Json};

pub(crate) use template::ChatTemplate;

/// Messages and the tools that the model may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// JSON schemas of functions, as the template expects them.
    pub tools: Vec<Json>,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// Such as `system`, `user` or `assistant`; which ones exist is up to the template.
    pub role: String,
    /// The text.
    pub content: String,
    /// Who speaks, where the template cares.
    pub name: Option<String>,
    /// Further fields, such as `tool_calls` and `tool_call_id`.
    pub extra: Map<String, Json>,
}

impl Message {
    /// A message of text only.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            ..Self::default()
        }
    }
}

/// How to render a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// What the template takes for the present, in UTC.
    pub now: SystemTime,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Json>,
}

impl ChatOptions {
    /// With a generation prompt and no further variables.
    #[must_use]
    pub fn at(now: SystemTime) -> Self {
        Self {
            add_generation_prompt: true,
            now,
            variables: Map::new(),
        }
    }
}

/// A rendered and encoded conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// What the model is given.
    pub ids: Vec<u32>,
    /// The rendered text. It contains what users wrote, so it belongs in no log.
    pub text: String,
}

impl Conversation {
    /// The template's `messages`.
    fn messages_json(&self) -> Json {
        self.messages.iter().map(Message::json).collect()
    }
}

impl Message {
    fn json(&self) -> Json {
        let mut fields = Map::new();
        fields.insert("role".into(), self.role.clone().into());
        fields.insert("content".into(), self.content.clone().into());
        fields.extend(self.name.iter().map(|name| ("name".to_owned(), name.clone().into())));
        let extra = self
            .extra
            .iter()
            .filter(|(name, _)| !["role", "content", "name"].contains(&name.as_str()));
        fields.extend(extra.map(|(name, value)| (name.clone(), value.clone())));
        Json::Object(fields)
    }
}

#[cfg(test)]
mod tests;
