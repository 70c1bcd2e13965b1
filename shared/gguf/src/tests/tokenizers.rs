//! Rebuilt tokenizers, loaded as the service loads them, against the ids that llama.cpp gives for texts meant to be hard;
//! `fixtures/make_tokenizers.py` has written both.

use kr_tokenizer::{Bundle, DecodeOptions, EncodeOptions};
use serde_json::Value as Json;

use super::conversion::{Converted, converted};
use super::file::{File, Meta};
use crate::Target;

const TEXT: EncodeOptions = EncodeOptions {
    add_special_tokens: false,
    parse_special_tokens: false,
};

const NONE: [&str; 0] = [];

fn fixture() -> Json {
    serde_json::from_str(include_str!("../../fixtures/tokenizers.json")).unwrap()
}

fn list<T>(value: &Json, read: impl Fn(&Json) -> Option<T>) -> Vec<T> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| read(item).unwrap())
        .collect()
}

fn texts(value: &Json) -> Vec<String> {
    list(value, |text| text.as_str().map(str::to_owned))
}

fn integers<T: TryFrom<i64>>(value: &Json) -> Vec<T> {
    list(value, |number| T::try_from(number.as_i64()?).ok())
}

fn tiny(vocabulary: &Json) -> File {
    File::tiny_llama().with_tokens(texts(&vocabulary["tokens"]), integers(&vocabulary["kinds"]))
}

fn byte_level(fixture: &Json, rule: &str) -> File {
    let vocabulary = &fixture["byte_level"];
    tiny(vocabulary)
        .with("tokenizer.ggml.pre", rule)
        .with("tokenizer.ggml.merges", Meta::Texts(texts(&vocabulary["merges"])))
}

fn sentence_piece(fixture: &Json) -> File {
    let vocabulary = &fixture["sentence_piece"];
    #[expect(clippy::cast_possible_truncation, reason = "they were written from 32-bit floats")]
    let scores = list(&vocabulary["scores"], |score| score.as_f64().map(|score| score as f32));
    tiny(vocabulary)
        .without("tokenizer.ggml.pre")
        .without("tokenizer.ggml.merges")
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.unknown_token_id", Meta::U32(0))
        .with("tokenizer.ggml.scores", Meta::F32s(scores))
}

fn loaded(file: &File) -> (Converted, Bundle) {
    let converted = converted(file, Target::Quantized);
    let bundle = Bundle::load(&converted.dir()).unwrap();
    (converted, bundle)
}

/// Asserts that every text becomes the reference's ids; returns the texts that come back otherwise.
#[track_caller]
fn agrees(file: &File, fixture: &Json, reference: &str) -> Vec<String> {
    let (_folder, bundle) = loaded(file);
    let texts = texts(&fixture["texts"]);
    let expected = list(&fixture["ids"][reference], |ids| Some(integers::<u32>(ids)));
    assert_eq!(texts.len(), expected.len());
    assert!(texts.len() > 200);
    let keep = DecodeOptions {
        keep_special_tokens: true,
    };
    let mut changed = Vec::new();
    for (text, expected) in texts.into_iter().zip(&expected) {
        assert_eq!(bundle.encode(&text, TEXT).unwrap(), *expected, "{reference}: {text:?}");
        if bundle.decode(expected, keep).unwrap() != text {
            changed.push(text);
        }
    }
    changed
}

#[test]
fn smollm_splits_as_the_reference_does() {
    let fixture = fixture();
    assert_eq!(agrees(&byte_level(&fixture, "smollm"), &fixture, "smollm"), NONE);
}

#[test]
fn gpt_2_splits_as_the_reference_does() {
    let fixture = fixture();
    assert_eq!(agrees(&byte_level(&fixture, "gpt-2"), &fixture, "gpt-2"), NONE);
}

#[test]
fn the_default_splits_as_the_reference_does() {
    let fixture = fixture();
    assert_eq!(agrees(&byte_level(&fixture, "default"), &fixture, "default"), NONE);
}

#[test]
fn llama_3_splits_as_the_reference_does() {
    let fixture = fixture();
    assert_eq!(agrees(&byte_level(&fixture, "llama-bpe"), &fixture, "llama-bpe"), NONE);
}

#[test]
fn qwen2_splits_as_the_reference_does() {
    let fixture = fixture();
    let changed = agrees(&byte_level(&fixture, "qwen2"), &fixture, "qwen2");
    // Composed: the same text in fewer characters.
    assert_eq!(changed.len(), 5, "{changed:?}");
    assert!(changed.contains(&"a\u{301}e\u{308}".to_owned()));
}

#[test]
fn sentence_piece_merges_as_the_reference_does() {
    let fixture = fixture();
    // A space is put before whatever follows a token found in the text, here as there.
    let changed = agrees(&sentence_piece(&fixture), &fixture, "sentencepiece");
    assert_eq!(changed, ["<tool>x<tool>", "a <tool> b"]);
}

#[test]
fn sentence_piece_without_a_prefix_merges_as_the_reference_does() {
    let fixture = fixture();
    let file = sentence_piece(&fixture).with("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    assert_eq!(agrees(&file, &fixture, "sentencepiece without prefix"), NONE);
}

#[test]
fn texts_begin_as_the_models_kind_has_it_unless_the_file_says_otherwise() {
    let fixture = fixture();
    let begins = |file: &File| {
        let (_folder, bundle) = loaded(file);
        let options = EncodeOptions {
            add_special_tokens: true,
            parse_special_tokens: false,
        };
        let ids = bundle.encode("a", options).unwrap();
        assert_ne!(ids.last(), Some(&2), "{ids:?} does not end by itself");
        ids[0] == 1
    };
    let says = |file: File, begin: bool| file.with("tokenizer.ggml.add_bos_token", Meta::Bool(begin));
    assert!(begins(&byte_level(&fixture, "llama-bpe")));
    assert!(begins(&sentence_piece(&fixture)));
    assert!(!begins(&byte_level(&fixture, "qwen2")));
    assert!(!begins(&says(sentence_piece(&fixture), false)));
    assert!(begins(&says(byte_level(&fixture, "qwen2"), true)));
}

#[test]
fn a_vocabulary_may_do_without_bytes() {
    let (_folder, bundle) = loaded(&File::tiny_sentence_piece());
    assert_eq!(bundle.encode("ab a b", TEXT).unwrap(), [6, 5, 6, 3, 5]);
    assert!(bundle.encode("xyz", TEXT).is_err(), "only <unk> could stand for it");
}

#[test]
fn sentence_piece_vocabularies_that_cannot_be_rebuilt() {
    let fixture = fixture();
    let refused = |file: File, parts: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model.gguf");
        std::fs::write(&source, file.bytes()).unwrap();
        let options = crate::ConvertOptions {
            target: Target::Quantized,
            overwrite: false,
            progress: &mut |_| {},
        };
        let text = crate::convert(&source, &dir.path().join("out"), options)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    };
    let file = || sentence_piece(&fixture);
    let tokens = texts(&fixture["sentence_piece"]["tokens"]);
    refused(
        file().without("tokenizer.ggml.scores"),
        &[r#""tokenizer.ggml.scores" is missing"#],
    );
    let scores = |scores: Vec<f32>| file().with("tokenizer.ggml.scores", Meta::F32s(scores));
    refused(scores(vec![0.0; 3]), &["has 3 entries", "one for each token"]);
    refused(scores(vec![f32::NAN; tokens.len()]), &["NaN for token 0"]);
    refused(
        file().with("tokenizer.ggml.remove_extra_whitespaces", Meta::Bool(true)),
        &["remove_extra_whitespaces"],
    );
    let mut kinds: Vec<i32> = integers(&fixture["sentence_piece"]["kinds"]);
    let byte = kinds.iter().position(|kind| *kind == 6).unwrap();
    kinds[byte] = 1;
    refused(
        file().with("tokenizer.ggml.token_type", Meta::I32s(kinds)),
        &["255 byte tokens", "none or the 256 from <0x00> to <0xFF>"],
    );
    let mut long = tokens;
    *long.last_mut().unwrap() = "x".repeat(1025);
    refused(
        file().with("tokenizer.ggml.tokens", Meta::Texts(long)),
        &["of 1025 bytes", "at most 1024 bytes"],
    );
}
