//! The files of a model folder that concern text, and the fields taken from them.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use crate::chat::ChatTemplate;
use crate::error::Error;
use crate::pieces::DecoderSpec;

pub(super) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// Names of the special tokens that chat templates may use.
const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// What was read.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    pub(super) tokenizer: Vec<u8>,
    tokenizer_json: Json,
    tokenizer_config: Json,
    template_source: Option<String>,
    generation_config: Json,
    config: Json,
    /// Texts of the special tokens, by name.
    special: Map<String, Json>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let tokenizer = read(&dir.join(TOKENIZER))?;
        let optional = |name: &str| match read_optional(&dir.join(name))? {
            Some(bytes) => json(&dir.join(name), &bytes),
            None => Ok(Json::Null),
        };
        let tokenizer_config = optional(TOKENIZER_CONFIG)?;
        let template_source = read_optional(&dir.join(CHAT_TEMPLATE))?;
        Ok(Self {
            tokenizer_json: json(&dir.join(TOKENIZER), &tokenizer)?,
            tokenizer,
            special: special_tokens(&tokenizer_config),
            tokenizer_config,
            template_source: template_source
                .map(|bytes| text(&dir.join(CHAT_TEMPLATE), bytes))
                .transpose()?,
            generation_config: optional(GENERATION_CONFIG)?,
            config: optional(CONFIG)?,
            dir: dir.to_owned(),
        })
    }

    pub(super) fn digest(&self) -> String {
        Sha256::digest(&self.tokenizer)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub(super) fn special(&self, name: &str) -> Option<&String> {
        match self.special.get(name) {
            Some(Json::String(token)) => Some(token),
            _ => None,
        }
    }

    pub(super) fn decoder(&self) -> Result<Option<DecoderSpec>, Error> {
        let decoder = &self.tokenizer_json["decoder"];
        serde_json::from_value(decoder.clone()).map_err(|source| Error::Tokenizer {
            path: self.dir.join(TOKENIZER),
            source: source.into(),
        })
    }

    pub(super) fn unsupported_decoder(&self, found: String) -> Error {
        self.field(
            TOKENIZER,
            "decoder",
            found,
            "ByteLevel, Metaspace, or a sequence of Replace, ByteFallback, Fuse and Strip",
        )
    }

    pub(super) fn end_ids(&self) -> Result<Option<Vec<u32>>, Error> {
        for (name, file) in [(GENERATION_CONFIG, &self.generation_config), (CONFIG, &self.config)] {
            let field = &file["eos_token_id"];
            if !field.is_null() {
                let fault = || self.field(name, "eos_token_id", field.to_string(), "a token id or a list of them");
                return end_ids(field).map(Some).ok_or_else(fault);
            }
        }
        Ok(None)
    }

    pub(super) fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        let field = &self.tokenizer_config["chat_template"];
        let source = match (&self.template_source, field) {
            (Some(source), _) | (None, Json::String(source)) => source,
            (None, Json::Null) => return Ok(None),
            (None, Json::Array(templates)) => default_template(templates).ok_or_else(|| {
                self.field(
                    TOKENIZER_CONFIG,
                    "chat_template",
                    "a list without \"default\"".into(),
                    "one named so",
                )
            })?,
            (None, other) => {
                return Err(self.field(
                    TOKENIZER_CONFIG,
                    "chat_template",
                    other.to_string(),
                    "a template's text",
                ));
            }
        };
        ChatTemplate::new(source, self.special.clone()).map(Some)
    }

    fn field(&self, file: &str, field: &str, found: String, expected: &str) -> Error {
        Error::Field {
            path: self.dir.join(file),
            field: field.to_owned(),
            found,
            expected: expected.to_owned(),
        }
    }
}

fn default_template(templates: &[Json]) -> Option<&String> {
    let default = templates.iter().find(|template| template["name"] == "default")?;
    match &default["template"] {
        Json::String(source) => Some(source),
        _ => None,
    }
}

fn end_ids(field: &Json) -> Option<Vec<u32>> {
    let id = |id: &Json| u32::try_from(id.as_u64()?).ok();
    match field {
        Json::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

/// A special token is written as its text or as an object with its content.
fn special_tokens(config: &Json) -> Map<String, Json> {
    let text = |name: &&str| match &config[*name] {
        Json::Object(token) => token.get("content").filter(|content| content.is_string()),
        text => Some(text).filter(|text| text.is_string()),
    };
    SPECIAL_TOKENS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), text(name)?.clone())))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn json(path: &Path, bytes: &[u8]) -> Result<Json, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::NotJson {
        path: path.to_owned(),
        source,
    })
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| Error::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })
}
