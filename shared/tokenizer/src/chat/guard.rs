//! Marks text from outside, so that it can be told from the template's own after rendering.

use serde_json::Value as Json;

/// Private-use characters: free for our meaning, no letters, no white space.
const CANDIDATES: [std::ops::RangeInclusive<char>; 2] = ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}'];

/// Puts marks into text.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    mark: char,
    special_texts: &'a [String],
}

/// How much is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    /// Every character that begins a special token, whatever follows.
    EveryBeginning,
    /// Special tokens that are there in full.
    WholeTokens,
}

impl<'a> Guard<'a> {
    /// `None` when there is no character left that none of the texts contains.
    pub(super) fn new(special_texts: &'a [String], outside: &[&Json], template: &str) -> Option<Self> {
        let is_free = |mark: &char| {
            let in_specials = special_texts.iter().any(|text| text.contains(*mark));
            !in_specials && !template.contains(*mark) && !outside.iter().any(|json| contains(json, *mark))
        };
        let mark = CANDIDATES.into_iter().flatten().find(is_free)?;
        Some(Self { mark, special_texts })
    }

    /// The value with marks in all its texts, or `None` when there is nothing to mark.
    pub(super) fn marked(&self, json: &Json, strength: Strength) -> Option<Json> {
        let mut marked = json.clone();
        self.mark_texts(&mut marked, strength).then_some(marked)
    }

    fn mark_texts(&self, json: &mut Json, strength: Strength) -> bool {
        match json {
            Json::String(text) => match self.marked_text(text, strength) {
                None => false,
                Some(marked) => {
                    *text = marked;
                    true
                }
            },
            Json::Array(values) => values
                .iter_mut()
                .fold(false, |any, value| self.mark_texts(value, strength) | any),
            Json::Object(fields) => {
                let mut any = false;
                let marked = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                    any |= self.mark_texts(&mut value, strength);
                    let name = self
                        .marked_text(&name, strength)
                        .inspect(|_| any = true)
                        .unwrap_or(name);
                    (name, value)
                });
                *fields = marked.collect();
                any
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => false,
        }
    }

    fn marked_text(&self, text: &str, strength: Strength) -> Option<String> {
        let mut marked = String::new();
        let mut copied = 0;
        for (at, _) in text.char_indices() {
            if self.begins_special(&text[at..], strength) {
                marked.push_str(&text[copied..at]);
                marked.push(self.mark);
                copied = at;
            }
        }
        if marked.is_empty() {
            return None;
        }
        marked.push_str(&text[copied..]);
        Some(marked)
    }

    fn begins_special(&self, rest: &str, strength: Strength) -> bool {
        self.special_texts.iter().any(|special| match strength {
            Strength::EveryBeginning => rest.chars().next() == special.chars().next(),
            Strength::WholeTokens => rest.starts_with(special),
        })
    }

    /// Whether a mark stands right before this byte.
    pub(super) fn is_marked(&self, text: &str, at: usize) -> bool {
        text[..at].ends_with(self.mark)
    }

    pub(super) fn without_marks(&self, text: &str) -> String {
        text.replace(self.mark, "")
    }

    /// Bytes that the marks of a text take.
    pub(super) fn mark_bytes(&self, text: &str) -> usize {
        text.matches(self.mark).count() * self.mark.len_utf8()
    }
}

fn contains(json: &Json, mark: char) -> bool {
    match json {
        Json::String(text) => text.contains(mark),
        Json::Array(values) => values.iter().any(|value| contains(value, mark)),
        Json::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains(mark) || contains(value, mark)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}
