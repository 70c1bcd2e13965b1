//! From text to ids, with exact control over which stretches may become control tokens.
//!
//! The steps are those of the tokenizer library (added tokens, normalization, added tokens again, pre-tokenization, model,
//! post-processing); only the first differs: control tokens stand where the caller says and nowhere else.

use std::collections::HashSet;

use tokenizers::{
    AddedToken, Encoding, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token,
    Tokenizer, normalizer::Range,
};

use crate::added_tokens::{Candidate, Match, Matcher};
use crate::error::{Error, TokenizerFault};

/// How to encode a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the tokenizer puts around a text, such as a beginning-of-text token.
    pub add_special_tokens: bool,
    /// Turn the text of control tokens into control tokens. Only for text that is trusted.
    pub parse_special_tokens: bool,
}

/// A tokenizer with its added tokens taken apart.
#[derive(Debug)]
pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    raw: Option<Matcher>,
    /// Matched against normalized text.
    normalized: Option<Matcher>,
    /// Special ids that must not come out of plain text.
    control_ids: HashSet<u32>,
    special_texts: Vec<String>,
}

impl Encoder {
    /// `unknown` is the id that stands for text without a token: the one special token that plain text may become.
    pub(crate) fn new(mut tokenizer: Tokenizer, unknown: Option<u32>) -> Result<Self, TokenizerFault> {
        // A prompt is refused when it is too long, never cut or filled up.
        tokenizer.with_truncation(None)?.with_padding(None);
        let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.retain(|(_, token)| !token.content.is_empty());
        added.sort_by_key(|(id, _)| *id);
        let special = added.iter().filter(|(_, token)| token.special);
        let control_ids = special
            .clone()
            .map(|(id, _)| *id)
            .filter(|id| Some(*id) != unknown)
            .collect();
        let special_texts = special.map(|(_, token)| token.content.clone()).collect();
        let is_normalized = |(_, token): &(u32, AddedToken)| token.normalized && !token.special;
        let (normalized, raw): (Vec<_>, Vec<_>) = added.into_iter().partition(is_normalized);
        Ok(Self {
            raw: matcher(raw, |token| Ok(token.content.clone()))?,
            normalized: matcher(normalized, |token| normal_form(&tokenizer, &token.content))?,
            tokenizer,
            control_ids,
            special_texts,
        })
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Texts of all special tokens.
    pub(crate) fn special_texts(&self) -> &[String] {
        &self.special_texts
    }

    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        let controls = if options.parse_special_tokens {
            self.find_added(text, |_| true)
        } else {
            Vec::new()
        };
        self.encode_around(text, &controls, options.add_special_tokens)
    }

    /// The special tokens in a text, each if the caller accepts its first byte.
    pub(crate) fn find_controls(&self, text: &str, accept: impl Fn(usize) -> bool) -> Vec<Match> {
        self.find_added(text, |candidate| candidate.special && accept(candidate.start))
    }

    fn find_added(&self, text: &str, accept: impl Fn(Candidate) -> bool) -> Vec<Match> {
        self.raw.as_ref().map(|raw| raw.find(text, accept)).unwrap_or_default()
    }

    /// Encodes a text with these matches in it; no other stretch of it becomes a control token.
    pub(crate) fn encode_around(&self, text: &str, matches: &[Match], add_special: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.tokenize(text, matches).map_err(Error::Encode)?;
        let is_control = |id: &&u32| self.control_ids.contains(id);
        let wanted = matches.iter().filter(|found| is_control(&&found.id)).count();
        let mut controls = encoding.get_ids().iter().filter(is_control);
        if let Some(id) = controls.nth(wanted) {
            let token = self.tokenizer.id_to_token(*id).unwrap_or_default();
            return Err(Error::ControlTokenInText { token });
        }
        let encoding = self
            .tokenizer
            .post_process(encoding, None, add_special)
            .map_err(Error::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn tokenize(&self, text: &str, matches: &[Match]) -> Result<Encoding, TokenizerFault> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| cut(piece, matches))?;
        let plain = |candidate: Candidate| !candidate.special;
        if let Some(raw) = &self.raw {
            pieces.split(|_, piece| {
                let matches = raw.find(piece.get(), plain);
                cut(piece, &matches)
            })?;
        }
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = self.tokenizer.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            let matches = self
                .normalized
                .as_ref()
                .map(|normalized| normalized.find(piece.get(), plain));
            cut(piece, &matches.unwrap_or_default())
        })?;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        self.tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None)?;
        pieces.into_encoding(None, 0, OffsetType::None)
    }
}

type Piece = (NormalizedString, Option<Vec<Token>>);

/// Cuts a piece at its matches, which become tokens.
fn cut(piece: NormalizedString, matches: &[Match]) -> Result<Vec<Piece>, TokenizerFault> {
    let slice = |range: std::ops::Range<usize>| {
        piece
            .slice(Range::Normalized(range))
            .ok_or_else(|| TokenizerFault::from("a match is not within the text"))
    };
    let mut pieces = Vec::with_capacity(2 * matches.len() + 1);
    let mut end = 0;
    for found in matches {
        if end < found.range.start {
            pieces.push((slice(end..found.range.start)?, None));
        }
        let text = slice(found.range.clone())?;
        let token = Token::new(found.id, text.get().to_owned(), (0, text.get().len()));
        pieces.push((text, Some(vec![token])));
        end = found.range.end;
    }
    if end < piece.get().len() {
        pieces.push((slice(end..piece.get().len())?, None));
    }
    Ok(pieces)
}

fn matcher(
    tokens: Vec<(u32, AddedToken)>,
    pattern: impl Fn(&AddedToken) -> Result<String, TokenizerFault>,
) -> Result<Option<Matcher>, TokenizerFault> {
    if tokens.is_empty() {
        return Ok(None);
    }
    let patterns = tokens
        .iter()
        .map(|(_, token)| pattern(token))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Matcher::new(tokens, &patterns)?))
}

fn normal_form(tokenizer: &Tokenizer, text: &str) -> Result<String, TokenizerFault> {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normalized)?;
    }
    Ok(normalized.get().to_owned())
}

#[cfg(test)]
mod tests;
