//! From ids to text, piece by piece: never half a character, and the pieces together are the text of all ids.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::error::Error;
use crate::pieces::{LeadingSpaces, Pieces};

/// How to decode ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Write special tokens as their text instead of leaving them out.
    pub keep_special_tokens: bool,
}

/// Decodes one sequence of ids while it grows. Memory and time per id do not grow with the sequence.
#[derive(Debug)]
pub struct Detokenizer {
    bundle: Arc<Bundle>,
    decoding: Decoding,
}

impl Detokenizer {
    pub(crate) fn new(bundle: Arc<Bundle>, options: DecodeOptions) -> Self {
        let decoding = Decoding::new(bundle.pieces(), options);
        Self { bundle, decoding }
    }

    /// Takes the next id and returns the text that is certain now. Bytes that may still become a character are held
    /// back, at most three of them.
    ///
    /// # Errors
    /// [`Error::UnknownToken`]; the id is left out and decoding can go on.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        let mut text = String::new();
        self.decoding.push(self.bundle.pieces(), id, &mut text)?;
        Ok(text)
    }

    /// Returns what was held back: a replacement character where a character is incomplete.
    pub fn flush(&mut self) -> String {
        let mut text = String::new();
        self.decoding.flush(&mut text);
        text
    }
}

/// The state of a decoding, without the table it reads.
#[derive(Debug)]
pub(crate) struct Decoding {
    keep_special_tokens: bool,
    leading: LeadingSpaces,
    /// An incomplete character.
    held: Vec<u8>,
}

impl Decoding {
    pub(crate) fn new(pieces: &Pieces, options: DecodeOptions) -> Self {
        Self {
            keep_special_tokens: options.keep_special_tokens,
            leading: pieces.leading_spaces(),
            held: Vec::new(),
        }
    }

    /// Appends to `text` what is certain once `id` is known.
    pub(crate) fn push(&mut self, pieces: &Pieces, id: u32, text: &mut String) -> Result<(), Error> {
        let piece = pieces.get(id).ok_or(Error::UnknownToken {
            id,
            vocab_size: pieces.len(),
        })?;
        if piece.special && !self.keep_special_tokens {
            return Ok(());
        }
        let bytes = self.without_leading_spaces(piece.bytes);
        if self.held.is_empty() {
            self.decode(bytes, text);
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(bytes);
            self.decode(&joined, text);
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self, text: &mut String) {
        if !self.held.is_empty() {
            self.held.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn without_leading_spaces<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let spaces = bytes.iter().take_while(|byte| **byte == b' ').count();
        let (dropped, left) = match self.leading {
            LeadingSpaces::Keep => return bytes,
            LeadingSpaces::DropInFirstToken => (spaces, LeadingSpaces::Keep),
            LeadingSpaces::Drop(most) => {
                let dropped = spaces.min(most);
                let text_began = dropped < bytes.len() || dropped == most;
                (
                    dropped,
                    if text_began {
                        LeadingSpaces::Keep
                    } else {
                        LeadingSpaces::Drop(most - dropped)
                    },
                )
            }
        };
        self.leading = left;
        &bytes[dropped..]
    }

    fn decode(&mut self, bytes: &[u8], text: &mut String) {
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.held.extend_from_slice(invalid);
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

/// Whether more bytes could make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests;
