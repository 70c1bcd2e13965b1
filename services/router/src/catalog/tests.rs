use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;

/// A tokenizer whose token N is the byte N, then `<s>` (256), `</s>` (257); with a chat template.
static BYTES: LazyLock<Arc<Bundle>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        vocabulary.insert(letter(byte).to_string(), Value::from(u32::from(byte)));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    let template = "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}\
                    {{ '<s>' + m.content + '</s>' }}{% endfor %}";
    let config = json!({"eos_token": "</s>", "bos_token": "<s>", "chat_template": template});
    let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", config);
    write(
        "config.json",
        json!({"max_position_embeddings": 64, "eos_token_id": 257}),
    );
    Arc::new(Bundle::load(folder.path()).unwrap())
});

/// Returns the letter that byte-level tokenizers write for a byte: itself where it is printable, else one from U+0100 on.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(*byte)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
}

/// Returns a model whose tokens are bytes and whose context is 64 tokens.
pub(crate) fn byte_model(index: usize, name: &str, aliases: &[&str]) -> ServedModel {
    ServedModel {
        index: ModelIndex(index),
        name: name.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        bundle: BYTES.clone(),
        context_tokens: Some(64),
    }
}

#[test]
fn names_and_aliases_find_their_model() {
    let catalog = Catalog::new(vec![byte_model(0, "a", &["default"]), byte_model(1, "b", &["large"])]);
    for (name, index) in [("a", 0), ("default", 0), ("b", 1), ("large", 1)] {
        assert_eq!(catalog.resolve(name).unwrap().index, ModelIndex(index), "{name}");
    }
}

#[test]
fn an_empty_name_is_the_only_model_and_a_violation_among_several() {
    let one = Catalog::new(vec![byte_model(0, "a", &[])]);
    assert_eq!(&*one.resolve("").unwrap().name, "a");
    let two = Catalog::new(vec![byte_model(0, "a", &[]), byte_model(1, "b", &[])]);
    let Err(Error::Invalid(violations)) = two.resolve("") else {
        panic!("not refused")
    };
    assert!(violations[0].description.contains("a, b"), "{violations:?}");
}

#[test]
fn unknown_names_are_cut_before_they_are_repeated() {
    let catalog = Catalog::new(vec![byte_model(0, "a", &[])]);
    let Err(Error::UnknownModel { name }) = catalog.resolve(&"x".repeat(1 << 20)) else {
        panic!("found")
    };
    assert_eq!(name.len(), MAX_SHOWN_NAME);
}
