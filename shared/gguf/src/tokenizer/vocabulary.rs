//! Tokens, their kinds and the merges, checked against each other.

use std::collections::HashMap;

use crate::error::{Error, Place};
use crate::gguf::Gguf;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The vocabulary of a byte-level BPE tokenizer.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    pub(super) kinds: Vec<Kind>,
    pub(super) merges: Vec<(&'a str, &'a str)>,
}

/// What a token is to the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reached by merges only.
    Plain,
    /// Controls the model; special.
    Control,
    /// Matched in text, but ordinary text all the same.
    UserDefined,
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
            merges: merges(gguf, &ids)?,
        })
    }
}

fn ids<'a>(gguf: &Gguf, tokens: &'a [String]) -> Result<HashMap<&'a str, usize>, Error> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
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
        1 | 5 | 6 => Ok(Kind::Plain),
        2 | 3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        other => Err(gguf.inconsistent(place(), format!("token type {other}"), "a token type from 1 to 6")),
    };
    numbers.iter().map(kind).collect()
}

fn merges<'a>(gguf: &'a Gguf, ids: &HashMap<&str, usize>) -> Result<Vec<(&'a str, &'a str)>, Error> {
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
