//! Token ids of one answer to its text: never half a character, nothing of an end token, nothing of a stop text.

use std::sync::Arc;

use kr_contract::TokenId;
use kr_tokenizer::{Bundle, DecodeOptions, Detokenizer, StopMatcher};

use crate::error::Error;
use crate::validate::ValidRequest;

/// The text of one answer, as far as it is known.
#[derive(Debug)]
pub(crate) struct AnswerText {
    bundle: Arc<Bundle>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// Tokens that end the answer and have no text.
    ends: Vec<TokenId>,
    stopped: bool,
}

impl AnswerText {
    /// Starts the text of a request's answer.
    ///
    /// # Errors
    /// When the stop texts cannot be matched, which validation rules out.
    pub(crate) fn new(valid: &ValidRequest) -> Result<Self, Error> {
        let bundle = valid.model.bundle.clone();
        let sequence = &valid.sequence;
        let mut ends = sequence.stop_tokens.clone();
        if !sequence.params.ignore_eos {
            ends.extend_from_slice(&sequence.end_tokens);
        }
        Ok(Self {
            detokenizer: bundle.detokenizer(DecodeOptions::default()),
            stops: StopMatcher::new(&valid.stops).map_err(|error| Error::internal("stop texts", error))?,
            bundle,
            ends,
            stopped: false,
        })
    }

    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Adds a token; returns the text decided by it and whether a stop text is complete.
    pub(crate) fn push(&mut self, id: TokenId) -> (String, bool) {
        if self.ends.contains(&id) {
            return (String::new(), self.stopped);
        }
        // A model's vocabulary may be padded beyond its tokenizer's; such a token has no text.
        let text = self.detokenizer.push(id).unwrap_or_default();
        self.matched(&text)
    }

    /// Returns what was held back, at the end, and whether a stop text is complete with it.
    pub(crate) fn flush(&mut self) -> (String, bool) {
        let rest = self.detokenizer.flush();
        let (mut text, stopped) = self.matched(&rest);
        if !stopped {
            text += &self.stops.flush();
        }
        (text, stopped)
    }

    fn matched(&mut self, text: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        let output = self.stops.push(text);
        self.stopped = output.stopped.is_some();
        (output.text, self.stopped)
    }
}
