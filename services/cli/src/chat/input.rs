//! Where entries come from: an editor on a terminal, plain lines elsewhere.

use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::signal::unix::Signal;

use super::editor::{Editor, Typed};
use super::entry::{Composer, Entry};
use crate::error::Error;
use crate::terminal;

/// A source of entries.
#[derive(Debug)]
pub(super) struct Input {
    source: Source,
    composer: Composer,
}

#[derive(Debug)]
enum Source {
    Editor(Editor),
    Lines(Lines<BufReader<Stdin>>),
}

impl Input {
    /// Reads from the terminal.
    ///
    /// # Errors
    /// The terminal cannot be set up.
    pub(super) fn terminal(keeps_history: bool) -> Result<Self, Error> {
        Ok(Self::of(Source::Editor(Editor::new(keeps_history)?)))
    }

    /// Reads standard input line by line, without prompts.
    pub(super) fn lines() -> Self {
        Self::of(Source::Lines(BufReader::new(tokio::io::stdin()).lines()))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            composer: Composer::default(),
        }
    }

    /// Returns the next entry, or `None` at the end of input.
    ///
    /// # Errors
    /// Input cannot be read; [`Error::Interrupted`] where there is no editor that takes Ctrl-C as a key.
    pub(super) async fn next(&mut self, interrupts: &mut Signal) -> Result<Option<Entry>, Error> {
        loop {
            let line = match &mut self.source {
                Source::Editor(editor) => match editor.line(self.composer.is_composing()).await? {
                    Typed::Line(line) => Some(line),
                    Typed::Interrupt => {
                        self.composer.reset();
                        terminal::note("Ctrl-D or /exit leaves");
                        continue;
                    }
                    Typed::End => None,
                },
                Source::Lines(lines) => tokio::select! {
                    line = lines.next_line() => line?,
                    _ = interrupts.recv() => return Err(Error::Interrupted),
                },
            };
            let Some(line) = line else {
                return Ok(self.composer.finish());
            };
            if let Some(entry) = self.composer.add(&line) {
                return Ok(Some(entry));
            }
        }
    }
}
