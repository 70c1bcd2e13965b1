//! Byte-level BPE, GGUF's `gpt2`: every byte has a character, merges are listed by rank.

use serde_json::json;

use super::Pipeline;
use super::pre_tokenizer::Rule;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Place};
use crate::gguf::Gguf;

const MERGES: &str = "tokenizer.ggml.merges";

pub(super) fn read(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Pipeline, Error> {
    let key = "tokenizer.ggml.add_space_prefix";
    if gguf.flag(key)? == Some(true) {
        return Err(gguf.unsupported(Place::Key(key.into()), "true", "false"));
    }
    let rule = Rule::read(gguf)?;
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": rule.ignores_merges,
        "vocab": super::vocab(vocabulary),
        "merges": merges(gguf, vocabulary)?,
    });
    Ok(Pipeline {
        normalizer: rule.normalizer(),
        pre_tokenizer: rule.pre_tokenizer(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model,
        begins: rule.begins,
    })
}

fn merges<'a>(gguf: &'a Gguf, vocabulary: &Vocabulary<'_>) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let ids = &vocabulary.ids;
    let pair = |(rank, merge): (usize, &'a String)| {
        let fault =
            |expected: &str| gguf.inconsistent(Place::Key(MERGES.into()), format!("merge {rank}, {merge:?}"), expected);
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| fault("two tokens with a space between"))?;
        let known =
            ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(format!("{left}{right}").as_str());
        if known {
            Ok((left, right))
        } else {
            Err(fault("two tokens of the vocabulary whose union is one too"))
        }
    };
    gguf.required_texts(MERGES)?.iter().enumerate().map(pair).collect()
}
