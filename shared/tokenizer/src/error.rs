//! What can go wrong with a model folder's text files, and with text.

use std::io;
use std::path::PathBuf;

/// A reason of the tokenizer library, which names no type for its errors.
pub(crate) type TokenizerFault = Box<dyn std::error::Error + Send + Sync>;

/// Why a bundle could not be loaded or text could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model folder cannot be read.
    #[error("cannot read {path}; a model folder needs it: import or download the model again")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file is not JSON.
    #[error("{path} is not valid JSON; it is damaged or incomplete: import or download the model again")]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// `tokenizer.json` is JSON but no tokenizer.
    #[error(
        "{path} is not a usable tokenizer; it is damaged or made for a newer version: import or download the model again"
    )]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's reason.
        source: TokenizerFault,
    },
    /// A field has a value that is not supported or makes no sense.
    #[error(
        "{path}: field {field} has {found}, expected {expected}; correct the file or use another export of the model"
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots between levels.
        field: String,
        /// What it has.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// The model has no chat template.
    #[error("the model has no chat template; send a plain prompt or add chat_template to its tokenizer_config.json")]
    NoChatTemplate,
    /// The chat template itself is broken, or does not fit the shape of these messages.
    #[error("the model's chat template failed; correct chat_template in its tokenizer_config.json")]
    Template(#[source] minijinja::Error),
    /// The chat template refused the messages; the text is the template's own.
    #[error("the chat template refused the messages: {0}")]
    Message(String),
    /// The chat template computed too long.
    #[error("the chat template needs too much work for these messages; send fewer or shorter messages")]
    TemplateFuel,
    /// The chat template's output is too long.
    #[error("the chat template's output exceeds {limit} bytes; send fewer or shorter messages")]
    TemplateOutput {
        /// Most bytes allowed.
        limit: usize,
    },
    /// A message holds control tokens and the template changes it in a way that could set them free.
    #[error(
        "a message contains control tokens of the model, which its chat template cannot carry as text; remove them"
    )]
    ControlTokenInMessage,
    /// The tokenizer has no way to write a control token's text as anything but the control token.
    #[error("the text contains {token:?}, which this model's tokenizer can only read as a control token; remove it")]
    ControlTokenInText {
        /// The token.
        token: String,
    },
    /// An id that stands for no token.
    #[error("token id {id} is not in the vocabulary; ids are below {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// A stop string without text.
    #[error("stop string {index} is empty; remove it")]
    EmptyStop {
        /// Its position in the request.
        index: usize,
    },
    /// The tokenizer library failed on a text.
    #[error("the text could not be tokenized")]
    Encode(#[source] TokenizerFault),
}
