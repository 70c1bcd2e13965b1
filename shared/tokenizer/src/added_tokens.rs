//! Finds added tokens in text: those that are matched whole, before a text is split and merged.
//!
//! Matching is leftmost-longest, as everywhere else these files are read. The caller decides match by match whether a
//! token may be taken, which is how control tokens are kept out of text that users wrote.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::AddedToken;

/// An added token and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Match {
    /// Bytes it replaces, including the white space it swallows.
    pub(crate) range: Range<usize>,
    pub(crate) id: u32,
}

/// A set of added tokens.
#[derive(Debug)]
pub(crate) struct Matcher {
    automaton: AhoCorasick,
    tokens: Vec<(u32, AddedToken)>,
}

/// A candidate that the caller may refuse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// First byte of the token's own text.
    pub(crate) start: usize,
    pub(crate) special: bool,
}

impl Matcher {
    /// `patterns` are the texts to look for, one for each token.
    pub(crate) fn new(tokens: Vec<(u32, AddedToken)>, patterns: &[String]) -> Result<Self, aho_corasick::BuildError> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns)?;
        Ok(Self { automaton, tokens })
    }

    /// All accepted matches, in order and without overlap.
    pub(crate) fn find(&self, text: &str, accept: impl Fn(Candidate) -> bool) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut free_from = 0;
        let mut search_from = 0;
        while let Some(found) = self.automaton.find(Input::new(text).span(search_from..text.len())) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            let candidate = Candidate {
                start: found.start(),
                special: token.special,
            };
            if !accept(candidate) || (token.single_word && touches_a_word(text, found.range())) {
                search_from = next_char(text, found.start());
                continue;
            }
            let range = with_swallowed_space(text, found.range(), token, free_from);
            free_from = range.end;
            search_from = range.end;
            matches.push(Match { range, id: *id });
        }
        matches
    }
}

fn next_char(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

fn touches_a_word(text: &str, range: Range<usize>) -> bool {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    text[..range.start].ends_with(is_word) || text[range.end..].starts_with(is_word)
}

fn with_swallowed_space(text: &str, range: Range<usize>, token: &AddedToken, free_from: usize) -> Range<usize> {
    let mut swallowed = range;
    if token.lstrip {
        swallowed.start = text[..swallowed.start].trim_end().len().max(free_from);
    }
    if token.rstrip {
        let after = &text[swallowed.end..];
        swallowed.end += after.len() - after.trim_start().len();
    }
    swallowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(tokens: &[AddedToken]) -> Matcher {
        let patterns: Vec<_> = tokens.iter().map(|token| token.content.clone()).collect();
        Matcher::new((0..).zip(tokens.iter().cloned()).collect(), &patterns).unwrap()
    }

    fn found(tokens: &[AddedToken], text: &str) -> Vec<(u32, String)> {
        let matches = matcher(tokens).find(text, |_| true);
        matches
            .into_iter()
            .map(|found| (found.id, text[found.range].to_owned()))
            .collect()
    }

    #[test]
    fn the_longest_of_the_leftmost_tokens_wins() {
        let tokens = [AddedToken::from("<a>", true), AddedToken::from("<a><b>", true)];
        assert_eq!(found(&tokens, "x<a><b><a>"), [(1, "<a><b>".into()), (0, "<a>".into())]);
    }

    #[test]
    fn single_words_touch_no_other_word() {
        let tokens = [AddedToken::from("cat", false).single_word(true)];
        assert_eq!(found(&tokens, "cat concat cats cat_ (cat)").len(), 2);
    }

    #[test]
    fn space_is_swallowed_where_the_token_says_so() {
        let tokens = [AddedToken::from("<m>", true).lstrip(true).rstrip(true)];
        assert_eq!(
            found(&tokens, "a  <m> \n<m> b"),
            [(0, "  <m> \n".into()), (0, "<m> ".into())]
        );
    }

    #[test]
    fn after_a_refused_match_the_search_goes_on_inside_it() {
        let tokens = [AddedToken::from("<<a>>", true), AddedToken::from("<a>", true)];
        let matches = matcher(&tokens).find("<<a>>", |candidate| candidate.start != 0);
        assert_eq!(matches, [Match { range: 1..4, id: 1 }]);
    }
}
