use serde_json::json;

use super::*;
use crate::fixture::{Copy, byte_level};

const CONFIG: &str = "tokenizer_config.json";

#[test]
fn a_bundle_knows_its_ids() {
    let bundle = byte_level();
    assert_eq!(bundle.vocab_size(), 420);
    assert_eq!((bundle.bos_id(), bundle.end_ids()), (Some(1), &[2, 0][..]));
    assert_eq!(bundle.token_id("<|im_end|>"), Some(2));
    assert_eq!(bundle.token_text(2).as_deref(), Some("<|im_end|>"));
    assert_eq!(bundle.token_text(4), None);
    assert!(bundle.has_chat_template());
}

#[test]
fn the_digest_is_that_of_the_tokenizer_file() {
    let copy = Copy::of("byte_level");
    let digest = byte_level().digest().to_owned();
    assert_eq!(digest.len(), 64);
    assert_eq!(copy.load().unwrap().digest(), digest);
    let bytes = [copy.read("tokenizer.json"), b"\n".to_vec()].concat();
    assert_ne!(copy.write("tokenizer.json", bytes).load().unwrap().digest(), digest);
}

#[test]
fn end_ids_come_from_the_first_file_that_has_them() {
    let copy = Copy::of("byte_level").write("config.json", r#"{"eos_token_id": 7}"#);
    assert_eq!(copy.load().unwrap().end_ids(), [2, 0]);
    let copy = copy.write("generation_config.json", r#"{"eos_token_id": null}"#);
    assert_eq!(copy.load().unwrap().end_ids(), [7]);
    let copy = copy.remove("config.json").remove("generation_config.json");
    assert_eq!(copy.load().unwrap().end_ids(), [2]);
    let copy = copy.remove(CONFIG);
    assert_eq!(copy.load().unwrap().end_ids(), [0_u32; 0]);
}

#[test]
fn a_template_may_lie_in_a_file_of_its_own_or_in_a_list() {
    let text = |copy: Copy| {
        let options = ChatOptions::at(std::time::UNIX_EPOCH);
        copy.load()
            .unwrap()
            .encode_chat(&Conversation::default(), &options)
            .unwrap()
            .text
    };
    assert_eq!(
        text(Copy::of("byte_level").write("chat_template.jinja", "own file")),
        "own file"
    );
    let list = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]);
    assert_eq!(text(Copy::of("byte_level").set(CONFIG, "chat_template", list)), "plain");
}

#[test]
fn without_a_template_there_is_no_chat() {
    let bundle = Copy::of("byte_level")
        .set(CONFIG, "chat_template", json!(null))
        .load()
        .unwrap();
    let options = ChatOptions::at(std::time::UNIX_EPOCH);
    assert!(!bundle.has_chat_template());
    assert!(matches!(
        bundle.encode_chat(&Conversation::default(), &options),
        Err(Error::NoChatTemplate)
    ));
}

#[track_caller]
fn refused(copy: Copy, parts: &[&str]) {
    let error = copy.load().unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error}: {}", source.unwrap_or_default());
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_broken_file_is_named_with_a_cure() {
    let copy = || Copy::of("byte_level");
    refused(
        copy().remove("tokenizer.json"),
        &["cannot read ", "/tokenizer.json; ", "download the model again"],
    );
    refused(
        copy().write("tokenizer.json", ""),
        &["/tokenizer.json is not valid JSON"],
    );
    refused(
        copy().write("tokenizer.json", "{}"),
        &["/tokenizer.json is not a usable tokenizer"],
    );
    refused(
        copy().write(CONFIG, "{"),
        &["/tokenizer_config.json is not valid JSON", "line 1"],
    );
    refused(
        copy().write(CONFIG, [0xff, 0xfe]),
        &["/tokenizer_config.json is not valid JSON"],
    );
    refused(copy().template("{% if %}"), &["chat template failed", "chat_template"]);
    refused(
        copy().set(CONFIG, "chat_template", json!(7)),
        &["field chat_template has 7"],
    );
    refused(
        copy().set("generation_config.json", "eos_token_id", json!("x")),
        &["field eos_token_id has \"x\""],
    );
    refused(
        copy().set("generation_config.json", "eos_token_id", json!(-1)),
        &["field eos_token_id has -1"],
    );
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    refused(
        copy().set("tokenizer.json", "decoder", word_piece),
        &["field decoder has WordPiece"],
    );
    refused(
        copy().set("tokenizer.json", "decoder", json!(null)),
        &["field decoder has no decoder"],
    );
}

#[test]
fn a_tokenizer_cut_anywhere_is_refused_without_a_panic() {
    let copy = Copy::of("byte_level");
    let whole = copy.read("tokenizer.json");
    let whole = whole.trim_ascii_end();
    let mut copy = copy;
    for len in (0..whole.len()).step_by(97) {
        copy = copy.write("tokenizer.json", &whole[..len]);
        assert!(copy.load().is_err(), "cut to {len} bytes");
    }
}

#[test]
fn fields_of_the_wrong_type_are_refused_without_a_panic() {
    let whole: serde_json::Value = serde_json::from_slice(&Copy::of("byte_level").read("tokenizer.json")).unwrap();
    let names: Vec<_> = whole.as_object().unwrap().keys().cloned().collect();
    let mut copy = Copy::of("byte_level");
    for name in names {
        for wrong in [json!(1), json!("x"), json!([1]), json!({"type": "Nothing"})] {
            copy = Copy::of("byte_level").set("tokenizer.json", &name, wrong);
            let _ = copy.load();
        }
    }
    // The last variant of the last field, the model, is certainly wrong.
    assert!(copy.load().is_err());
}

#[test]
fn an_id_beyond_every_vocabulary_is_refused_before_tables_are_made() {
    let copy = Copy::of("byte_level");
    let mut json: serde_json::Value = serde_json::from_slice(&copy.read("tokenizer.json")).unwrap();
    json["model"]["vocab"]["zzz"] = u32::MAX.into();
    refused(
        copy.write("tokenizer.json", json.to_string()),
        &["/tokenizer.json is not a usable tokenizer", "token id 4294967295"],
    );
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let truncation = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
    let copy = Copy::of("byte_level")
        .set("tokenizer.json", "truncation", truncation)
        .set("tokenizer.json", "padding", padding);
    let text = "What is the capital of France?";
    let encode = |bundle: &Bundle| bundle.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(encode(&copy.load().unwrap()), encode(&byte_level()));
}
