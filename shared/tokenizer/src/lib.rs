//! Text to token ids and back: tokenizer, chat template, incremental detokenizer and stop strings.
//!
//! A [`Bundle`] is read once from a model folder and shared; everything made per request is small. Knows no model, no
//! request and no clock.
//!
//! # Control tokens
//! Text from outside never becomes a control token: [`Bundle::encode`] treats `<|im_end|>` in a prompt as those ten
//! characters unless asked otherwise, and [`Bundle::encode_chat`] turns only the chat template's own control tokens into
//! ids, never those that a message contains (see the module `chat`).

#![forbid(unsafe_code)]

mod added_tokens;
mod bundle;
mod chat;
mod detokenizer;
mod encode;
mod error;
#[cfg(test)]
mod fixture;
mod pieces;
mod stop;

pub use bundle::Bundle;
pub use chat::{ChatOptions, ChatPrompt, Conversation, Message};
pub use detokenizer::{DecodeOptions, Detokenizer};
pub use encode::EncodeOptions;
pub use error::Error;
pub use stop::{StopMatcher, StopOutput};
