//! How text is split before merges apply. To add a model's way: one row.

use serde_json::{Value as Json, json};

use crate::error::{Error, Place};
use crate::gguf::Gguf;

type Rule = (&'static str, fn() -> Json);

/// Names in `tokenizer.ggml.pre` and the pre-tokenizer each stands for.
const RULES: [Rule; 1] = [("smollm", digits_then_byte_level)];

pub(super) fn read(gguf: &Gguf) -> Result<Json, Error> {
    let key = "tokenizer.ggml.pre";
    let name = gguf.required_text(key)?;
    let rule = RULES.iter().find(|(known, _)| *known == name);
    rule.map(|(_, rule)| rule()).ok_or_else(|| {
        let known: Vec<_> = RULES.iter().map(|(known, _)| format!("{known:?}")).collect();
        gguf.unsupported(Place::Key(key.into()), format!("{name:?}"), known.join(", "))
    })
}

/// Every digit stands alone; the rest is split by GPT-2's pattern.
fn digits_then_byte_level() -> Json {
    json!({
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ],
    })
}
