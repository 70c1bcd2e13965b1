//! Log probabilities as clients read them: with the text of each token; the prompt's in messages of a bounded size.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use kr_contract::TokenId;
use kr_proto::serve as pb;
use kr_tokenizer::{Bundle, DecodeOptions};
use prost::Message as _;

use crate::sequence::TokenLogprobs;

/// Bytes of the prompt's log probabilities in one message: well below what any client's library refuses.
const LARGEST_CHUNK: usize = 256 << 10;

/// Gives log probabilities the names of their tokens.
pub(super) fn named(id: TokenId, logprobs: TokenLogprobs, bundle: &Bundle) -> pb::TokenLogprobs {
    let top = logprobs.top.into_iter().map(|(token_id, logprob)| pb::TopLogprob {
        token_id,
        logprob,
        text: text_of(token_id, bundle),
    });
    pb::TokenLogprobs {
        token_id: id,
        logprob: logprobs.chosen,
        top: top.collect(),
        text: text_of(id, bundle),
    }
}

/// Returns a token's text, empty where it is no whole character.
fn text_of(id: TokenId, bundle: &Bundle) -> String {
    let whole = DecodeOptions {
        keep_special_tokens: true,
    };
    let text = bundle.decode(&[id], whole).unwrap_or_default();
    if text.contains('\u{fffd}') { String::new() } else { text }
}

/// The prompt, as far as its log probabilities have not been sent.
#[derive(Debug)]
pub(super) struct PromptScores {
    bundle: Arc<Bundle>,
    /// The prompt's tokens but the first, which has no probability.
    unscored: VecDeque<TokenId>,
}

impl PromptScores {
    pub(super) fn new(prompt: &[TokenId], bundle: Arc<Bundle>) -> Self {
        Self {
            bundle,
            unscored: prompt.iter().skip(1).copied().collect(),
        }
    }

    /// Returns the next tokens' log probabilities, each part small enough for a message. What goes beyond the prompt is
    /// dropped.
    pub(super) fn chunks(&mut self, scores: Vec<TokenLogprobs>) -> Vec<Vec<pb::TokenLogprobs>> {
        let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
        for scores in scores {
            let Some(id) = self.unscored.pop_front() else { break };
            let named = named(id, scores, &self.bundle);
            let length = named.encoded_len();
            if bytes + length > LARGEST_CHUNK && !chunk.is_empty() {
                chunks.push(mem::take(&mut chunk));
                bytes = 0;
            }
            bytes += length;
            chunk.push(named);
        }
        chunks.extend((!chunk.is_empty()).then_some(chunk));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::byte_model;

    #[test]
    fn long_prompts_are_cut_into_small_messages_without_a_gap() {
        let prompt: Vec<TokenId> = (0..3000).map(|index| u32::from(b'a') + index % 26).collect();
        let mut scores = PromptScores::new(&prompt, byte_model(0, "bytes", &[]).bundle);
        let score = TokenLogprobs {
            chosen: -1.0,
            top: vec![(b'x'.into(), -1.0); 20],
        };
        let chunks = scores.chunks(vec![score; 3000]);
        assert!(chunks.len() > 1, "{}", chunks.len());
        for chunk in &chunks {
            let bytes: usize = chunk.iter().map(pb::TokenLogprobs::encoded_len).sum();
            assert!(bytes <= LARGEST_CHUNK, "{bytes}");
        }
        let ids: Vec<_> = chunks.iter().flatten().map(|named| named.token_id).collect();
        assert_eq!(ids, prompt[1..], "all but the first, and nothing beyond the last");
    }
}
