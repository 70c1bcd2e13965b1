//! How text is split before merges apply, by the name in `tokenizer.ggml.pre`. To add a model's way: one row.

use serde_json::{Value as Json, json};

use crate::error::{Error, Place};
use crate::gguf::Gguf;

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Rule {
    names: &'static [&'static str],
    splits: &'static [Split],
    /// Whether text is brought into Unicode's composed form first, as the model's own tokenizer does.
    pub(super) composes: bool,
    /// Whether a piece that is a token as a whole is taken without looking at merges.
    pub(super) ignores_merges: bool,
    /// Whether texts begin with the beginning token, unless the file says otherwise.
    pub(super) begins: bool,
}

#[derive(Debug)]
enum Split {
    /// Each digit alone.
    Digits,
    /// Each match of the expression is a piece, and so is what lies between.
    Matches(&'static str),
    /// By the expression of GPT-2, which turning text into bytes can do on the way; only as the last one.
    Gpt2,
}

/// The expression of GPT-2: contractions, words, numbers and the rest, each with a space before it, and white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const RULES: [Rule; 5] = [
    Rule {
        names: &["smollm"],
        splits: &[Split::Digits, Split::Gpt2],
        composes: false,
        ignores_merges: false,
        begins: false,
    },
    Rule {
        names: &["gpt-2"],
        splits: &[Split::Gpt2],
        composes: false,
        ignores_merges: false,
        begins: false,
    },
    Rule {
        names: &["default"],
        splits: &[
            Split::Matches(r"[\p{P}\$\+<=>\^~\|]+"),
            Split::Matches(GPT2),
            Split::Matches(r"\p{N}+"),
            Split::Matches("[0-9][0-9][0-9]"),
        ],
        composes: false,
        ignores_merges: false,
        begins: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        splits: &[Split::Matches(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ))],
        composes: false,
        ignores_merges: true,
        begins: true,
    },
    Rule {
        names: &["qwen2"],
        splits: &[Split::Matches(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ))],
        composes: true,
        ignores_merges: false,
        begins: false,
    },
];

impl Rule {
    pub(super) fn read(gguf: &Gguf) -> Result<&'static Self, Error> {
        let key = "tokenizer.ggml.pre";
        let name = gguf.required_text(key)?;
        let rule = RULES.iter().find(|rule| rule.names.contains(&name));
        rule.ok_or_else(|| {
            let known = RULES.iter().flat_map(|rule| rule.names);
            let known: Vec<_> = known.map(|name| format!("{name:?}")).collect();
            gguf.unsupported(Place::Key(key.into()), format!("{name:?}"), known.join(", "))
        })
    }

    /// The pre-tokenizer of `tokenizer.json`.
    pub(super) fn pre_tokenizer(&self) -> Json {
        let split = |split: &Split| match split {
            Split::Digits => Some(json!({"type": "Digits", "individual_digits": true})),
            Split::Matches(regex) => Some(json!({
                "type": "Split",
                "pattern": {"Regex": regex},
                "behavior": "Isolated",
                "invert": false,
            })),
            Split::Gpt2 => None,
        };
        let use_regex = matches!(self.splits.last(), Some(Split::Gpt2));
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let mut steps: Vec<_> = self.splits.iter().filter_map(split).chain([bytes]).collect();
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }

    /// The normalizer of `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Json {
        if self.composes {
            json!({"type": "NFC"})
        } else {
            Json::Null
        }
    }
}
