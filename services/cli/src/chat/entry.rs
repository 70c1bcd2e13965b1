//! From typed lines to what they mean: messages, also of several lines, and commands.

use std::path::PathBuf;

const FENCE: &str = r#"""""#;

/// What somebody entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Empty,
    Message(String),
    Command(Command),
}

/// What begins with a slash.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Exit,
    Clear,
    System(Option<String>),
    Save(Option<PathBuf>),
    Unknown(String),
}

/// Puts lines together to entries.
#[derive(Debug, Default)]
pub(super) struct Composer {
    lines: Vec<String>,
    fenced: bool,
}

impl Composer {
    /// Whether an entry has begun and not ended.
    pub(super) fn is_composing(&self) -> bool {
        self.fenced || !self.lines.is_empty()
    }

    /// Takes a line and returns the entry that it completes, if it does.
    pub(super) fn add(&mut self, line: &str) -> Option<Entry> {
        if self.fenced {
            return self.add_fenced(line);
        }
        if self.lines.is_empty()
            && let Some(rest) = line.trim_start().strip_prefix(FENCE)
        {
            self.fenced = true;
            return if rest.trim().is_empty() {
                None
            } else {
                self.add_fenced(rest)
            };
        }
        match line.trim_end().strip_suffix('\\') {
            Some(begun) => {
                self.lines.push(begun.to_owned());
                None
            }
            None => {
                self.lines.push(line.to_owned());
                self.finish()
            }
        }
    }

    fn add_fenced(&mut self, line: &str) -> Option<Entry> {
        let Some(last) = line.trim_end().strip_suffix(FENCE) else {
            self.lines.push(line.to_owned());
            return None;
        };
        if !last.trim().is_empty() {
            self.lines.push(last.to_owned());
        }
        self.finish()
    }

    /// Completes what has begun: input is at its end.
    pub(super) fn finish(&mut self) -> Option<Entry> {
        let Self { lines, fenced } = std::mem::take(self);
        if lines.is_empty() && !fenced {
            return None;
        }
        let text = lines.join("\n");
        Some(match text.trim() {
            "" => Entry::Empty,
            text if fenced => Entry::Message(text.to_owned()),
            text => interpret(text),
        })
    }

    /// Forgets what has begun.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn interpret(text: &str) -> Entry {
    let Some(command) = text.strip_prefix('/') else {
        return Entry::Message(text.to_owned());
    };
    if command.starts_with('/') {
        return Entry::Message(command.to_owned());
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
    Entry::Command(match name {
        "help" | "?" => Command::Help,
        "exit" | "quit" => Command::Exit,
        "clear" => Command::Clear,
        "system" => Command::System(rest.map(str::to_owned)),
        "save" => Command::Save(rest.map(PathBuf::from)),
        _ => Command::Unknown(format!("/{name}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(lines: &[&str]) -> Vec<Entry> {
        let mut composer = Composer::default();
        let mut entries: Vec<_> = lines.iter().filter_map(|line| composer.add(line)).collect();
        entries.extend(composer.finish());
        entries
    }

    fn message(text: &str) -> Entry {
        Entry::Message(text.into())
    }

    #[test]
    fn a_line_is_a_message_and_a_backslash_goes_on() {
        assert_eq!(
            entries(&["one", "  ", "two \\", "three"]),
            [message("one"), Entry::Empty, message("two \nthree")]
        );
    }

    #[test]
    fn quotes_hold_several_lines_that_are_no_commands() {
        let fence = FENCE;
        assert_eq!(
            entries(&[fence, "/exit", "", "end\\", fence]),
            [message("/exit\n\nend\\")]
        );
        assert_eq!(
            entries(&[&format!("{fence}one"), &format!("two{fence}")]),
            [message("one\ntwo")]
        );
        assert_eq!(
            entries(&[&format!("{fence}one{fence}"), "two"]),
            [message("one"), message("two")]
        );
    }

    #[test]
    fn the_end_of_input_ends_a_message() {
        assert_eq!(entries(&["one\\"]), [message("one")]);
        assert_eq!(entries(&[FENCE, "one"]), [message("one")]);
    }

    #[test]
    fn commands_have_a_name_and_an_argument() {
        let command = |line| entries(&[line]).remove(0);
        assert_eq!(
            command("/system  be brief "),
            Entry::Command(Command::System(Some("be brief".into())))
        );
        assert_eq!(
            command("/save a b.txt"),
            Entry::Command(Command::Save(Some("a b.txt".into())))
        );
        assert_eq!(command("/quit"), Entry::Command(Command::Exit));
        assert_eq!(command("/sytem x"), Entry::Command(Command::Unknown("/sytem".into())));
        assert_eq!(command("//etc/hosts?"), message("/etc/hosts?"));
    }
}
