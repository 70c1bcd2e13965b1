//! Tokens and their kinds, checked against each other.

use std::collections::HashMap;

use crate::error::{Error, Place};
use crate::gguf::Gguf;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

/// The tokens of a model, each once.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    pub(super) kinds: Vec<Kind>,
    pub(super) ids: HashMap<&'a str, u32>,
}

/// What a token is to the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ordinary text, or never used.
    Plain,
    /// Stands for text that no token covers; special.
    Unknown,
    /// Controls the model; special.
    Control,
    /// Matched in text, but ordinary text all the same.
    UserDefined,
    /// One byte, where no other token covers it.
    Byte,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(gguf: &'a Gguf, vocab_size: usize) -> Result<Self, Error> {
        let tokens = gguf.required_texts(TOKENS)?;
        if tokens.len() > vocab_size {
            let expected = format!("at most {vocab_size}, the rows of the embedding");
            return Err(gguf.inconsistent(Place::Key(TOKENS.into()), format!("{} tokens", tokens.len()), expected));
        }
        let ids = ids(gguf, tokens)?;
        Ok(Self {
            tokens,
            kinds: kinds(gguf, tokens.len())?,
            ids,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str, Kind)> {
        let tokens = self.tokens.iter().zip(0_u32..).zip(&self.kinds);
        tokens.map(|((token, id), kind)| (id, token.as_str(), *kind))
    }

    /// Tokens that are matched in text before it is split: id, content, and whether they control the model.
    pub(super) fn added(&self) -> impl Iterator<Item = (u32, &'a str, bool)> {
        self.iter().filter_map(|(id, token, kind)| match kind {
            Kind::Unknown | Kind::Control => Some((id, token, true)),
            Kind::UserDefined => Some((id, token, false)),
            Kind::Plain | Kind::Byte => None,
        })
    }
}

fn ids<'a>(gguf: &Gguf, tokens: &'a [String]) -> Result<HashMap<&'a str, u32>, Error> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0_u32..) {
        if token.is_empty() {
            return Err(gguf.inconsistent(
                Place::Key(TOKENS.into()),
                format!("an empty token {id}"),
                "text for every token",
            ));
        }
        if let Some(first) = ids.insert(token.as_str(), id) {
            let found = format!("token {token:?} twice, as {first} and {id}");
            return Err(gguf.inconsistent(Place::Key(TOKENS.into()), found, "each token once"));
        }
    }
    Ok(ids)
}

fn kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<Kind>, Error> {
    let numbers = gguf.required_integers(KINDS)?;
    let place = || Place::Key(KINDS.into());
    if numbers.len() != tokens {
        let found = format!("{} entries", numbers.len());
        return Err(gguf.inconsistent(place(), found, format!("{tokens}, one for each token")));
    }
    let kind = |number: &i64| match number {
        1 | 5 => Ok(Kind::Plain),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        6 => Ok(Kind::Byte),
        other => Err(gguf.inconsistent(place(), format!("token type {other}"), "a token type from 1 to 6")),
    };
    numbers.iter().map(kind).collect()
}
