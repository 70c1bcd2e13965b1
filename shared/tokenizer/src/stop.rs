//! Stop strings in a text that arrives in pieces.
//!
//! Text is held back only while it may still become a stop string. The stop string that is complete first ends the text;
//! of several that are complete at the same character, the longest. Neither depends on how the text is cut into pieces.

use crate::error::Error;

/// Watches one growing text for stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
}

/// What is certain after a piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text to pass on; no part of a stop string.
    pub text: String,
    /// The stop string that ended the text, by its position in the request.
    pub stopped: Option<usize>,
}

impl StopMatcher {
    /// Watches for these strings; for none, text passes through.
    ///
    /// # Errors
    /// [`Error::EmptyStop`].
    pub fn new(stops: &[String]) -> Result<Self, Error> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(Error::EmptyStop { index });
        }
        Ok(Self {
            patterns: stops.iter().map(|stop| Pattern::new(stop)).collect(),
            held: String::new(),
            stopped: false,
        })
    }

    /// Takes the next piece of text. After a stop, further pieces give nothing.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.stopped {
            return StopOutput::default();
        }
        let new_from = self.held.len();
        self.held.push_str(text);
        for at in new_from..self.held.len() {
            let byte = self.held.as_bytes()[at];
            if let Some((index, len)) = complete(&mut self.patterns, byte) {
                self.held.truncate(at + 1 - len);
                self.stopped = true;
                return StopOutput {
                    text: std::mem::take(&mut self.held),
                    stopped: Some(index),
                };
            }
        }
        let undecided = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - undecided);
        StopOutput {
            text: std::mem::replace(&mut self.held, kept),
            stopped: None,
        }
    }

    /// Returns what was held back, at the end of a text that no stop string ended.
    pub fn flush(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

/// Advances every pattern; the longest that is complete now, with its length.
fn complete(patterns: &mut [Pattern], byte: u8) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    for (index, pattern) in patterns.iter_mut().enumerate() {
        let len = pattern.bytes.len();
        if pattern.advance(byte) && found.is_none_or(|(_, longest)| len > longest) {
            found = Some((index, len));
        }
    }
    found
}

/// A stop string and how much of it the end of the text matches (Knuth, Morris and Pratt).
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each prefix, the longest shorter prefix that ends it.
    fallback: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len()];
        for at in 1..bytes.len() {
            let shorter = longest_border(&bytes, &fallback, fallback[at - 1], bytes[at]);
            fallback[at] = shorter;
        }
        Self {
            bytes,
            fallback,
            matched: 0,
        }
    }

    /// Whether the whole string is matched with this byte.
    fn advance(&mut self, byte: u8) -> bool {
        self.matched = longest_border(&self.bytes, &self.fallback, self.matched, byte);
        self.matched == self.bytes.len()
    }
}

/// The longest prefix that ends in `byte`, given that `matched` bytes match before it.
fn longest_border(bytes: &[u8], fallback: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && bytes[matched] != byte {
        matched = fallback[matched - 1];
    }
    if bytes[matched] == byte { matched + 1 } else { 0 }
}

#[cfg(test)]
mod tests;
