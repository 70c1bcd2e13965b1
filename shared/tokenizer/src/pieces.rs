//! The text of every token as bytes, laid out once when a tokenizer is loaded.
//!
//! Concatenating pieces and reading the bytes as UTF-8 is decoding; nothing about a token depends on its neighbours
//! except spaces that the tokenizer put before the very first one. That holds for byte-level BPE and for
//! SentencePiece-style tokenizers with byte fallback, the two kinds of language models.

use serde::Deserialize;
use tokenizers::Tokenizer;

/// The pieces of a vocabulary, by id.
#[derive(Debug)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    /// End of each id's bytes; the start is the end of the id before.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    leading: LeadingSpaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Text,
    Special,
}

/// A token's part in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) special: bool,
}

/// Spaces at the beginning of a decoded text that are the tokenizer's, not the text's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeadingSpaces {
    Keep,
    /// At most so many.
    Drop(usize),
    /// All that stand for one within the first token.
    DropInFirstToken,
}

impl Pieces {
    /// Fails with the name of a decoder that is not known.
    pub(crate) fn of(tokenizer: &Tokenizer, decoder: Option<DecoderSpec>) -> Result<Self, String> {
        let decoder = Decoder::new(decoder)?;
        let mut vocabulary: Vec<_> = tokenizer.get_vocab(true).into_values().collect();
        vocabulary.sort_unstable();
        let len = vocabulary.last().map_or(0, |last| *last as usize + 1);
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(len),
            kinds: vec![Kind::Missing; len],
            leading: decoder.leading,
        };
        for id in vocabulary {
            pieces.ends.resize(id as usize, pieces.bytes.len());
            if let Some(token) = tokenizer.id_to_token(id) {
                let special = tokenizer.get_added_vocabulary().is_special_token(&token);
                pieces.kinds[id as usize] = if special { Kind::Special } else { Kind::Text };
                decoder.append(&token, &mut pieces.bytes);
            }
            pieces.ends.push(pieces.bytes.len());
        }
        Ok(pieces)
    }

    /// Ids are below this.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<Piece<'_>> {
        let index = id as usize;
        let special = match self.kinds.get(index)? {
            Kind::Missing => return None,
            Kind::Text => false,
            Kind::Special => true,
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(Piece {
            bytes: &self.bytes[start..self.ends[index]],
            special,
        })
    }

    pub(crate) fn leading_spaces(&self) -> LeadingSpaces {
        self.leading
    }
}

/// The `decoder` of a `tokenizer.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum DecoderSpec {
    ByteLevel,
    ByteFallback,
    Fuse,
    Metaspace {
        replacement: char,
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    Sequence {
        decoders: Vec<DecoderSpec>,
    },
    WordPiece,
    #[serde(rename = "BPEDecoder")]
    Bpe,
    #[serde(rename = "CTC")]
    Ctc,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) enum Pattern {
    String(String),
    Regex(String),
}

/// What happens to a token's text, in order.
#[derive(Debug)]
struct Decoder {
    replacements: Vec<(String, String)>,
    bytes: BytesFrom,
    leading: LeadingSpaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BytesFrom {
    Text,
    /// Every character stands for a byte.
    Alphabet,
    /// Tokens such as `<0x0A>` stand for a byte.
    Fallback,
}

impl Decoder {
    fn new(spec: Option<DecoderSpec>) -> Result<Self, String> {
        let mut decoder = Self {
            replacements: Vec::new(),
            bytes: BytesFrom::Text,
            leading: LeadingSpaces::Keep,
        };
        match spec {
            None => return Err("no decoder".into()),
            Some(DecoderSpec::Sequence { decoders }) => {
                let mut fused = false;
                for spec in decoders {
                    fused |= matches!(spec, DecoderSpec::Fuse);
                    decoder.add(spec, fused)?;
                }
            }
            Some(spec) => decoder.add(spec, false)?,
        }
        Ok(decoder)
    }

    /// `fused` says that the tokens are one text by now.
    fn add(&mut self, spec: DecoderSpec, fused: bool) -> Result<(), String> {
        match spec {
            DecoderSpec::ByteLevel => self.bytes = BytesFrom::Alphabet,
            DecoderSpec::ByteFallback => self.bytes = BytesFrom::Fallback,
            DecoderSpec::Fuse => {}
            DecoderSpec::Replace {
                pattern: Pattern::String(pattern),
                content,
            } => self.replacements.push((pattern, content)),
            DecoderSpec::Metaspace {
                replacement,
                prepend_scheme,
                add_prefix_space,
            } => {
                self.replacements.push((replacement.into(), " ".into()));
                let never = prepend_scheme.as_deref() == Some("never") || add_prefix_space == Some(false);
                if !never {
                    self.leading = LeadingSpaces::DropInFirstToken;
                }
            }
            DecoderSpec::Strip {
                content: ' ',
                start,
                stop: 0,
            } if fused => self.leading = LeadingSpaces::Drop(start),
            DecoderSpec::Replace {
                pattern: Pattern::Regex(regex),
                ..
            } => return Err(format!("a replacement of the pattern {regex:?}")),
            DecoderSpec::Strip { .. } => {
                return Err("a Strip that is not of spaces at the start of the whole text".into());
            }
            DecoderSpec::Sequence { .. } => return Err("a sequence within a sequence".into()),
            DecoderSpec::WordPiece => return Err("WordPiece".into()),
            DecoderSpec::Bpe => return Err("BPEDecoder".into()),
            DecoderSpec::Ctc => return Err("CTC".into()),
        }
        Ok(())
    }

    fn replaced(&self, token: &str) -> String {
        let replace = |text: String, (pattern, content): &(String, String)| text.replace(pattern, content);
        self.replacements.iter().fold(token.to_owned(), replace)
    }

    fn append(&self, token: &str, bytes: &mut Vec<u8>) {
        match self.bytes {
            BytesFrom::Alphabet => {
                let start = bytes.len();
                for char in token.chars() {
                    let Some(byte) = byte_of(char) else {
                        bytes.truncate(start);
                        bytes.extend_from_slice(token.as_bytes());
                        return;
                    };
                    bytes.push(byte);
                }
            }
            BytesFrom::Fallback => match fallback_byte(token) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(self.replaced(token).as_bytes()),
            },
            BytesFrom::Text => bytes.extend_from_slice(self.replaced(token).as_bytes()),
        }
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_byte.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte a character of byte-level BPE stands for: printable Latin-1 stands for itself, the other bytes follow in
/// order from U+0100 on.
fn byte_of(char: char) -> Option<u8> {
    const OTHERS: [(u32, u32); 4] = [(0x100, 0x00), (0x121, 0x7f), (0x143, 0xad), (0x144, 0x100)];
    match u32::from(char) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code => OTHERS.windows(2).find_map(|pair| {
            let (first, byte) = pair[0];
            (first..pair[1].0)
                .contains(&code)
                .then(|| u8::try_from(byte + code - first).ok())?
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_covers_every_byte_once() {
        let mut bytes: Vec<_> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn only_two_digits_make_a_fallback_byte() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        for token in ["<0x0>", "<0x00A>", "<0x+A>", "0x0A", "<0x0A"] {
            assert_eq!(fallback_byte(token), None, "{token}");
        }
    }

    #[test]
    fn decoders_that_look_at_neighbours_are_named() {
        let spec = |json: &str| serde_json::from_str::<DecoderSpec>(json).unwrap();
        let refused = |json: &str| Decoder::new(Some(spec(json))).unwrap_err();
        assert_eq!(
            refused(r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###),
            "WordPiece"
        );
        assert!(refused(r#"{"type": "Strip", "content": " ", "start": 1, "stop": 0}"#).contains("Strip"));
    }
}
