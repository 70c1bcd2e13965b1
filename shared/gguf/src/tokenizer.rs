//! Rebuilds `tokenizer.json` and `tokenizer_config.json` from a GGUF file's metadata.
//!
//! Two kinds are known, byte-level BPE and SentencePiece's BPE, each a module that fills a [`Pipeline`]; vocabulary,
//! special tokens and the ends of texts are the same for both.

mod byte_level;
mod pre_tokenizer;
mod sentence_piece;
mod vocabulary;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Place};
use crate::gguf::Gguf;
use vocabulary::Vocabulary;

/// The files, and the ids that other files repeat.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    pub(crate) tokenizer: Json,
    pub(crate) config: Json,
    pub(crate) ids: SpecialIds,
}

/// Ids with a meaning of their own, each within the vocabulary.
#[derive(Debug)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u32>,
    /// Ids that end an answer, without repeats.
    pub(crate) eos: Vec<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) pad: Option<u32>,
}

/// What the tokenizer has to agree with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelSizes {
    pub(crate) vocab_size: usize,
    pub(crate) context_length: u32,
}

/// The parts of `tokenizer.json` that depend on the kind.
#[derive(Debug)]
struct Pipeline {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    model: Json,
    /// Whether texts begin with the beginning token, unless the file says otherwise.
    begins: bool,
}

type Read = fn(&Gguf, &Vocabulary<'_>) -> Result<Pipeline, Error>;

/// Names in `tokenizer.ggml.model`, what they are called elsewhere, and what reads them.
const KINDS: [(&str, &str, Read); 2] = [
    ("gpt2", "byte-level BPE", byte_level::read),
    ("llama", "SentencePiece BPE", sentence_piece::read),
];

/// What people call the tokenizer's kind, if it is known.
pub(crate) fn kind_name(kind: &str) -> Option<&'static str> {
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    known.map(|(_, name, _)| *name)
}

/// Reads the tokenizer's metadata.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Inconsistent`] or [`Error::Missing`], naming the key.
pub(crate) fn read(gguf: &Gguf, model: ModelSizes) -> Result<Tokenizer, Error> {
    let key = "tokenizer.ggml.model";
    let kind = gguf.required_text(key)?;
    let Some((.., read)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
        let known: Vec<_> = KINDS
            .iter()
            .map(|(known, name, _)| format!("{known:?} ({name})"))
            .collect();
        return Err(gguf.unsupported(Place::Key(key.into()), format!("{kind:?}"), known.join(", ")));
    };
    let vocabulary = Vocabulary::read(gguf, model.vocab_size)?;
    let pipeline = read(gguf, &vocabulary)?;
    let ids = special_ids(gguf, &vocabulary)?;
    let ends = Ends::read(gguf, &ids, pipeline.begins)?;
    Ok(Tokenizer {
        tokenizer: json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added_tokens(&vocabulary),
            "normalizer": pipeline.normalizer,
            "pre_tokenizer": pipeline.pre_tokenizer,
            "post_processor": ends.post_processor(&vocabulary),
            "decoder": pipeline.decoder,
            "model": pipeline.model,
        }),
        config: tokenizer_config(gguf, &vocabulary, &ids, &ends, model)?,
        ids,
    })
}

fn special_ids(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<SpecialIds, Error> {
    let id = |name: &str| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match gguf.size(&key)? {
            Some(id) if id as usize >= vocabulary.tokens.len() => {
                let expected = format!("an id below {}, the number of tokens", vocabulary.tokens.len());
                Err(gguf.inconsistent(Place::Key(key), id.to_string(), expected))
            }
            id => Ok(id),
        }
    };
    let mut eos = Vec::new();
    for end in ["eos", "eot", "eom"] {
        eos.extend(id(end)?.filter(|id| !eos.contains(id)));
    }
    Ok(SpecialIds {
        bos: id("bos")?,
        eos,
        unk: id("unknown")?,
        pad: id("padding")?,
    })
}

/// Ids put around every encoded text.
#[derive(Debug)]
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Ends {
    fn read(gguf: &Gguf, ids: &SpecialIds, begins: bool) -> Result<Self, Error> {
        let wanted = |name: &str, id: Option<u32>, default: bool| {
            let wanted = gguf
                .flag(&format!("tokenizer.ggml.add_{name}_token"))?
                .unwrap_or(default);
            match id {
                None if wanted => Err(gguf.missing(Place::Key(format!("tokenizer.ggml.{name}_token_id")))),
                id => Ok(id.filter(|_| wanted)),
            }
        };
        Ok(Self {
            bos: wanted("bos", ids.bos, begins)?,
            eos: wanted("eos", ids.eos.first().copied(), false)?,
        })
    }

    fn post_processor(&self, vocabulary: &Vocabulary<'_>) -> Json {
        if self.bos.is_none() && self.eos.is_none() {
            return Json::Null;
        }
        let token = |id: u32| vocabulary.tokens[id as usize].as_str();
        let sequence = |name: &str, type_id: u8| {
            let special = |id: u32| json!({"SpecialToken": {"id": token(id), "type_id": type_id}});
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            self.bos
                .map(special)
                .into_iter()
                .chain([text])
                .chain(self.eos.map(special))
        };
        let special_tokens: Map<_, _> = self
            .bos
            .into_iter()
            .chain(self.eos)
            .map(|id| {
                (
                    token(id).to_owned(),
                    json!({"id": token(id), "ids": [id], "tokens": [token(id)]}),
                )
            })
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0).collect::<Vec<_>>(),
            "pair": sequence("A", 0).chain(sequence("B", 1)).collect::<Vec<_>>(),
            "special_tokens": special_tokens,
        })
    }
}

fn added_tokens(vocabulary: &Vocabulary<'_>) -> Vec<Json> {
    let added = vocabulary.added().map(|(id, content, special)| {
        json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": special,
        })
    });
    added.collect()
}

fn vocab(vocabulary: &Vocabulary<'_>) -> Map<String, Json> {
    let ids = vocabulary.iter();
    ids.map(|(id, token, _)| (token.to_owned(), id.into())).collect()
}

fn tokenizer_config(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
    ids: &SpecialIds,
    ends: &Ends,
    model: ModelSizes,
) -> Result<Json, Error> {
    let token = |id: Option<u32>| id.map(|id| vocabulary.tokens[id as usize].as_str());
    let decoder: Map<_, _> = added_tokens(vocabulary)
        .into_iter()
        .filter_map(|mut token| {
            let id = token.as_object_mut()?.shift_remove("id")?;
            Some((id.to_string(), token))
        })
        .collect();
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context_length,
        "add_prefix_space": false,
        "add_bos_token": ends.bos.is_some(),
        "add_eos_token": ends.eos.is_some(),
        "bos_token": token(ids.bos),
        "eos_token": token(ids.eos.first().copied()),
        "unk_token": token(ids.unk),
        "pad_token": token(ids.pad),
        "clean_up_tokenization_spaces": false,
        "added_tokens_decoder": decoder,
    });
    if let Some(template) = gguf.text("tokenizer.chat_template")? {
        config["chat_template"] = template.into();
    }
    Ok(config)
}
