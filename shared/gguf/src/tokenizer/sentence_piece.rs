//! SentencePiece's BPE, GGUF's `llama`: spaces are written as "▁", a score says which token is merged first, and what no
//! token covers falls back to bytes.
//!
//! `tokenizer.json` lists pairs instead of scores: every way to cut a token into two others, tokens with the highest
//! score first. Where one token can be cut in several ways, SentencePiece merges the leftmost pair of a text; a list needs
//! an order, and the longest left part comes first.

use serde_json::{Value as Json, json};

use super::Pipeline;
use super::vocabulary::{Kind, Vocabulary};
use crate::error::{Error, Place};
use crate::gguf::Gguf;

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE: &str = "▁";
/// Tokens are cut everywhere, so their length is bounded.
const MAX_TOKEN_BYTES: usize = 1024;

pub(super) fn read(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Pipeline, Error> {
    let key = "tokenizer.ggml.remove_extra_whitespaces";
    if gguf.flag(key)? == Some(true) {
        return Err(gguf.unsupported(Place::Key(key.into()), "true", "false"));
    }
    let prefix = gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocabulary.iter().find(|(_, _, kind)| *kind == Kind::Unknown);
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown.map(|(_, token, _)| token),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": falls_back_to_bytes(gguf, vocabulary)?,
        "ignore_merges": false,
        "vocab": super::vocab(vocabulary),
        "merges": merges(gguf, vocabulary)?,
    });
    Ok(Pipeline {
        normalizer: normalizer(prefix),
        pre_tokenizer: Json::Null,
        decoder: decoder(prefix),
        model,
        begins: true,
    })
}

fn normalizer(prefix: bool) -> Json {
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, escape]})
    } else {
        escape
    }
}

fn decoder(prefix: bool) -> Json {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

/// Whether the vocabulary has bytes: all of them or none.
fn falls_back_to_bytes(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<bool, Error> {
    let bytes = vocabulary.iter().filter(|(_, _, kind)| *kind == Kind::Byte).count();
    let missing = (0..=u8::MAX).find(|byte| {
        let id = vocabulary.ids.get(format!("<0x{byte:02X}>").as_str());
        id.is_none_or(|id| vocabulary.kinds[*id as usize] != Kind::Byte)
    });
    match (bytes, missing) {
        (0, _) => Ok(false),
        (256, None) => Ok(true),
        _ => Err(gguf.inconsistent(
            Place::Key("tokenizer.ggml.token_type".into()),
            format!("{bytes} byte tokens"),
            "none or the 256 from <0x00> to <0xFF>",
        )),
    }
}

fn merges<'a>(gguf: &Gguf, vocabulary: &Vocabulary<'a>) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let scores = scores(gguf, vocabulary.tokens.len())?;
    let is_text = |id: u32| matches!(vocabulary.kinds[id as usize], Kind::Plain | Kind::UserDefined);
    let known = |part: &str| vocabulary.ids.get(part).is_some_and(|id| is_text(*id));
    let mut merged: Vec<_> = vocabulary.iter().filter(|(id, ..)| is_text(*id)).collect();
    if let Some((id, token, _)) = merged.iter().find(|(_, token, _)| token.len() > MAX_TOKEN_BYTES) {
        let found = format!("token {id} of {} bytes", token.len());
        let supported = format!("tokens of at most {MAX_TOKEN_BYTES} bytes");
        return Err(gguf.unsupported(Place::Key("tokenizer.ggml.tokens".into()), found, supported));
    }
    merged.sort_by(|(one, ..), (other, ..)| scores[*other as usize].total_cmp(&scores[*one as usize]));
    let cuts = |token: &'a str| {
        let places = token.char_indices().rev().map(|(at, _)| at).filter(|at| *at > 0);
        places.map(move |at| token.split_at(at))
    };
    let pairs = merged.into_iter().flat_map(|(_, token, _)| cuts(token));
    Ok(pairs.filter(|(left, right)| known(left) && known(right)).collect())
}

fn scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>, Error> {
    let scores = gguf.required_floats(SCORES)?;
    let place = || Place::Key(SCORES.into());
    if scores.len() != tokens {
        let found = format!("{} entries", scores.len());
        return Err(gguf.inconsistent(place(), found, format!("{tokens}, one for each token")));
    }
    match scores.iter().position(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(id) => Err(gguf.inconsistent(place(), format!("{} for token {id}", scores[id]), "finite numbers")),
    }
}
