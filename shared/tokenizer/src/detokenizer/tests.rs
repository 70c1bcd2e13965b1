use proptest::prelude::*;

use super::*;
use crate::EncodeOptions;
use crate::fixture::{byte_fallback, byte_level};

const SKIP: DecodeOptions = DecodeOptions {
    keep_special_tokens: false,
};
const KEEP: DecodeOptions = DecodeOptions {
    keep_special_tokens: true,
};

fn pieces(bundle: &Arc<Bundle>, ids: &[u32], options: DecodeOptions) -> Vec<String> {
    let mut detokenizer = bundle.detokenizer(options);
    let mut pieces: Vec<_> = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
    pieces.push(detokenizer.flush());
    pieces
}

fn encode(bundle: &Bundle, text: &str) -> Vec<u32> {
    bundle.encode(text, EncodeOptions::default()).unwrap()
}

/// How the tokenizer library decodes all ids at once.
fn library(bundle: &Bundle, ids: &[u32], options: DecodeOptions) -> String {
    bundle
        .encoder()
        .tokenizer()
        .decode(ids, !options.keep_special_tokens)
        .unwrap()
}

#[test]
fn characters_of_several_tokens_come_whole() {
    for bundle in [byte_level(), byte_fallback()] {
        let ids = encode(&bundle, "x👋🏽y");
        assert!(ids.len() > 6, "the emoji takes several tokens: {ids:?}");
        let pieces = pieces(&bundle, &ids, SKIP);
        assert!(
            pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)),
            "{pieces:?}"
        );
        assert_eq!(pieces.concat(), "x👋🏽y");
    }
}

#[test]
fn an_incomplete_character_is_replaced_at_the_end() {
    for (bundle, lead) in [(byte_level(), "Ã"), (byte_fallback(), "<0xC3>")] {
        let lead = bundle.token_id(lead).unwrap();
        assert_eq!(pieces(&bundle, &[lead], SKIP), ["", "\u{fffd}"]);
    }
}

#[test]
fn an_incomplete_character_is_replaced_when_another_begins() {
    let bundle = byte_level();
    let lead = bundle.token_id("Ã").unwrap();
    let letter = bundle.token_id("x").unwrap();
    assert_eq!(pieces(&bundle, &[lead, letter], SKIP), ["", "\u{fffd}x", ""]);
    assert_eq!(pieces(&bundle, &[lead, lead], SKIP), ["", "\u{fffd}", "\u{fffd}"]);
}

#[test]
fn endless_bytes_that_are_no_text_are_not_held_back() {
    let bundle = byte_level();
    let continuation = bundle.token_id("Ģ").unwrap();
    let mut detokenizer = bundle.detokenizer(SKIP);
    for _ in 0..1000 {
        assert_eq!(detokenizer.push(continuation).unwrap(), "\u{fffd}");
    }
    assert_eq!(detokenizer.flush(), "");
}

#[test]
fn the_first_space_of_a_sentencepiece_text_is_not_the_texts_own() {
    let bundle = byte_fallback();
    let ids = encode(&bundle, "Hello the world");
    assert_eq!(bundle.token_text(ids[0]).as_deref(), Some("▁Hello"));
    assert_eq!(pieces(&bundle, &ids, SKIP)[..2], ["Hello", " the"]);
    // Only one: further spaces are the text's.
    assert_eq!(bundle.decode(&encode(&bundle, "  x"), SKIP).unwrap(), "  x");
}

#[test]
fn special_tokens_are_left_out_or_kept() {
    let bundle = byte_level();
    let ids = [1, bundle.token_id("x").unwrap(), 2, 3];
    assert_eq!(pieces(&bundle, &ids, SKIP), ["", "x", "", "<tool>", ""]);
    assert_eq!(pieces(&bundle, &ids, KEEP).concat(), "<|im_start|>x<|im_end|><tool>");
}

#[test]
fn an_unknown_id_is_an_error_and_decoding_goes_on() {
    let bundle = byte_level();
    for id in [4, 420, u32::MAX] {
        let mut detokenizer = bundle.detokenizer(SKIP);
        assert!(matches!(
            detokenizer.push(id),
            Err(Error::UnknownToken { vocab_size: 420, .. })
        ));
        assert_eq!(detokenizer.push(bundle.token_id("x").unwrap()).unwrap(), "x");
        assert!(bundle.decode(&[id], SKIP).is_err());
    }
}

proptest! {
    #[test]
    fn pieces_of_random_ids_are_the_text_of_all(ids in proptest::collection::vec(0_u32..420, 0..60), keep in any::<bool>()) {
        let bundle = byte_level();
        let ids: Vec<_> = ids.into_iter().filter(|id| *id != 4).collect();
        let options = DecodeOptions { keep_special_tokens: keep };
        let text = pieces(&bundle, &ids, options).concat();
        prop_assert_eq!(&text, &library(&bundle, &ids, options));
        prop_assert_eq!(text, bundle.decode(&ids, options).unwrap());
    }

    #[test]
    fn pieces_of_a_text_are_the_text(text in "(\\PC|[\n\t ]){0,40}") {
        for bundle in [byte_level(), byte_fallback()] {
            let ids = encode(&bundle, &text);
            let decoded = pieces(&bundle, &ids, SKIP).concat();
            prop_assert_eq!(&decoded, &library(&bundle, &ids, SKIP));
            prop_assert_eq!(&decoded, &text);
        }
    }
}
