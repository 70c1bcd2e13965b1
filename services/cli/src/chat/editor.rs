//! The line editor with its history. Reading blocks, so it happens on a thread for that.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kr_boot::Environment;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, DefaultEditor};

use crate::error::Error;
use crate::terminal;

const HISTORY_ENTRIES: usize = 1000;

/// What came from the keyboard.
#[derive(Debug)]
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// The editor; `None` only while a line is read, and for good if that panicked.
#[derive(Debug)]
pub(super) struct Editor {
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
}

impl Editor {
    /// # Errors
    /// The terminal cannot be set up.
    pub(super) fn new(keeps_history: bool) -> Result<Self, Error> {
        let config = Config::builder().max_history_size(HISTORY_ENTRIES).map_err(broken)?;
        let config = config.auto_add_history(true).build();
        let history = FileHistory::with_config(&config);
        let mut editor = DefaultEditor::with_history(config, history).map_err(broken)?;
        let history = keeps_history.then(history_file).flatten();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Self {
            editor: Some(editor),
            history,
        })
    }

    /// Reads a line; `continues` says that it belongs to the one before.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) async fn line(&mut self, continues: bool) -> Result<Typed, Error> {
        let mut editor = self
            .editor
            .take()
            .ok_or_else(|| Error::Input("the line editor is gone".into()))?;
        let prompt = if continues { "… " } else { "> " };
        let reading = tokio::task::spawn_blocking(move || {
            let line = editor.readline(prompt);
            (editor, line)
        });
        let (editor, line) = reading
            .await
            .map_err(|error| Error::Input(format!("the line editor failed: {error}")))?;
        let editor = self.editor.insert(editor);
        match line {
            Ok(line) => {
                if let Some(path) = &self.history
                    && let Err(error) = editor.append_history(path)
                {
                    terminal::note(&format!("the history is not kept: {}: {error}", path.display()));
                    self.history = None;
                }
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(error: ReadlineError) -> Error {
    Error::Output(match error {
        ReadlineError::Io(error) => error,
        error => std::io::Error::other(error),
    })
}

/// Returns where the history is kept, its folder made: only this user may look into it.
fn history_file() -> Option<PathBuf> {
    let folder = state_folder(&Environment::of_process())?.join("kr-serve-mlx");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.ok().map(|()| folder.join("chat_history"))
}

/// Returns `$XDG_STATE_HOME`, by default `~/.local/state`.
fn state_folder(environment: &Environment) -> Option<PathBuf> {
    let absolute = |name: &str| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let set = absolute("XDG_STATE_HOME").map(Path::to_owned);
    set.or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_folder_is_where_xdg_says() {
        let of = |variables: &[(&str, &str)]| state_folder(&variables.iter().copied().collect());
        assert_eq!(of(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s".into()));
        assert_eq!(
            of(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]),
            Some("/h/.local/state".into())
        );
        assert_eq!(of(&[]), None);
    }
}
