//! The text side of one model, read once from its folder.

mod files;

use std::path::Path;
use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::chat::{ChatOptions, ChatPrompt, ChatTemplate, Conversation};
use crate::detokenizer::{DecodeOptions, Decoding, Detokenizer};
use crate::encode::{EncodeOptions, Encoder};
use crate::error::Error;
use crate::pieces::Pieces;
use files::{Files, TOKENIZER};

/// Ids are below this. Tables are as long as the largest id, and a damaged file must not make them endless.
const MAX_VOCABULARY: u32 = 1 << 24;

/// Tokenizer, chat template and special ids of one model. Immutable; shared in an [`Arc`].
#[derive(Debug)]
pub struct Bundle {
    encoder: Encoder,
    pieces: Pieces,
    template: Option<ChatTemplate>,
    digest: String,
    bos_id: Option<u32>,
    end_ids: Vec<u32>,
}

impl Bundle {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`, `chat_template.jinja`,
    /// `generation_config.json` and `config.json`. Takes up to a second for a large vocabulary.
    ///
    /// # Errors
    /// Names the file and what to do: missing, no JSON, not a usable tokenizer, or a template with a syntax error.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let files = Files::read(dir)?;
        let fault = |source| Error::Tokenizer {
            path: dir.join(TOKENIZER),
            source,
        };
        let tokenizer = parse(&files.tokenizer).map_err(fault)?;
        refuse_endless_vocabulary(&tokenizer).map_err(fault)?;
        let pieces = Pieces::of(&tokenizer, files.decoder()?).map_err(|found| files.unsupported_decoder(found))?;
        let token_id = |token: Option<&String>| token.and_then(|token| tokenizer.token_to_id(token));
        let (bos_id, unknown) = (
            token_id(files.special("bos_token")),
            token_id(files.special("unk_token")),
        );
        let end_ids = match files.end_ids()? {
            Some(ids) => ids,
            None => token_id(files.special("eos_token")).into_iter().collect(),
        };
        Ok(Self {
            template: files.chat_template()?,
            digest: files.digest(),
            encoder: Encoder::new(tokenizer, unknown).map_err(fault)?,
            pieces,
            bos_id,
            end_ids,
        })
    }

    /// SHA-256 of `tokenizer.json`, 64 lowercase hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Ids are below this. A model may have more rows; their ids stand for no token.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Ids that end an answer: those of `generation_config.json`, else of `config.json`, else the tokenizer's own.
    #[must_use]
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The id that begins a text, if the model has one.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Whether [`Bundle::encode_chat`] can work.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The id of a vocabulary entry, written as the vocabulary has it.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.encoder.tokenizer().token_to_id(token)
    }

    /// The vocabulary entry of an id, which is not its text: see [`Bundle::decode`].
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.encoder.tokenizer().id_to_token(id)
    }

    /// Encodes a text. Takes time in proportion to it: keep long texts off threads that must not block.
    ///
    /// # Errors
    /// [`Error::ControlTokenInText`] or [`Error::Encode`].
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        self.encoder.encode(text, options)
    }

    /// Decodes ids at once; the same text as pushing them one by one into a [`Detokenizer`].
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub fn decode(&self, ids: &[u32], options: DecodeOptions) -> Result<String, Error> {
        let mut decoding = Decoding::new(&self.pieces, options);
        let mut text = String::new();
        for id in ids {
            decoding.push(&self.pieces, *id, &mut text)?;
        }
        decoding.flush(&mut text);
        Ok(text)
    }

    /// Renders the chat template and encodes the result. Control tokens of the template become ids; those that a
    /// message contains stay text.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::Message`] when the template refuses the messages, [`Error::TemplateFuel`] or
    /// [`Error::TemplateOutput`] at its limits, [`Error::Template`] when it is broken, and the errors of
    /// [`Bundle::encode`].
    pub fn encode_chat(&self, conversation: &Conversation, options: &ChatOptions) -> Result<ChatPrompt, Error> {
        let template = self.template.as_ref().ok_or(Error::NoChatTemplate)?;
        template.encode(conversation, options, &self.encoder)
    }

    /// Starts decoding one sequence.
    #[must_use]
    pub fn detokenizer(self: &Arc<Self>, options: DecodeOptions) -> Detokenizer {
        Detokenizer::new(Arc::clone(self), options)
    }

    #[cfg(test)]
    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}

/// The library panics on some malformed files, so a panic is one more way to say that a file is no tokenizer.
fn parse(bytes: &[u8]) -> Result<Tokenizer, crate::error::TokenizerFault> {
    std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes))
        .unwrap_or_else(|_| Err("the tokenizer library gave up on the file".into()))
}

fn refuse_endless_vocabulary(tokenizer: &Tokenizer) -> Result<(), crate::error::TokenizerFault> {
    match tokenizer.get_vocab(true).into_values().max() {
        Some(id) if id >= MAX_VOCABULARY => Err(format!("token id {id} is not below {MAX_VOCABULARY}").into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
