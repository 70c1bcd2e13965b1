//! Answers that stream at the same time, shown one after another: the first as it comes, each other once the one before it has
//! ended.

use super::News;

/// What was not shown yet of some answers.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    answers: Vec<Held>,
    /// The one that is shown.
    present: usize,
    begun: bool,
}

#[derive(Debug, Default, Clone)]
struct Held {
    text: String,
    ended: bool,
}

impl Turns {
    /// Returns the order of `count` answers.
    pub(crate) fn of(count: u32) -> Self {
        Self {
            answers: vec![Held::default(); (count as usize).min(super::MOST_CHOICES)],
            ..Self::default()
        }
    }

    /// Takes note of news of a choice and returns what is to be shown now.
    pub(crate) fn show(&mut self, choice: u32, news: News<'_>) -> String {
        if let Some(answer) = self.answers.get_mut(choice as usize) {
            match news {
                News::Text(text) => answer.text.push_str(text),
                News::End => answer.ended = true,
            }
        }
        let count = self.answers.len();
        let mut shown = String::new();
        while let Some(answer) = self.answers.get_mut(self.present) {
            let begins = !self.begun && (answer.ended || !answer.text.is_empty());
            if begins && count > 1 {
                shown.push_str(&format!("[{}/{count}]\n", self.present + 1));
            }
            self.begun |= begins;
            shown.push_str(&std::mem::take(&mut answer.text));
            if !answer.ended {
                break;
            }
            shown.push('\n');
            self.present += 1;
            self.begun = false;
        }
        shown
    }

    /// Returns what ends the line that an answer was cut in, where there is one.
    pub(crate) fn cut(&self) -> &'static str {
        if self.begun { "\n" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_shown_as_it_comes() {
        let mut turns = Turns::of(1);
        assert_eq!(turns.show(0, News::Text("a")), "a");
        assert_eq!(turns.cut(), "\n");
        assert_eq!(turns.show(0, News::Text("b")), "b");
        assert_eq!(turns.show(0, News::End), "\n");
        assert_eq!(turns.cut(), "");
    }

    #[test]
    fn others_wait_for_their_turn() {
        let mut turns = Turns::of(3);
        assert_eq!(turns.show(1, News::Text("two")), "");
        assert_eq!(turns.show(0, News::Text("o")), "[1/3]\no");
        assert_eq!(turns.show(2, News::Text("three")), "");
        assert_eq!(turns.show(2, News::End), "");
        assert_eq!(turns.show(0, News::Text("ne")), "ne");
        assert_eq!(turns.show(0, News::End), "\n[2/3]\ntwo");
        assert_eq!(turns.show(1, News::End), "\n[3/3]\nthree\n");
    }

    #[test]
    fn an_answer_without_text_has_its_place_too() {
        let mut turns = Turns::of(2);
        assert_eq!(turns.show(0, News::End), "[1/2]\n\n");
        assert_eq!(turns.show(1, News::Text("x")), "[2/2]\nx");
    }
}
