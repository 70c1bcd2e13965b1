//! What was said so far.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use kr_proto::serve::ChatMessage;
use serde_json::json;

use crate::error::Error;

/// A system message and turns, oldest first.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    system: Option<String>,
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    role: &'static str,
    content: String,
    /// An answer that was interrupted.
    cut: bool,
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Self {
        Self {
            system,
            turns: Vec::new(),
        }
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    pub(super) fn set_system(&mut self, text: String) {
        self.system = Some(text);
    }

    pub(super) fn say(&mut self, content: String) {
        self.push("user", content, false);
    }

    pub(super) fn answer(&mut self, content: String) {
        self.push("assistant", content, false);
    }

    /// Keeps the beginning of an answer: the model goes on from what was shown.
    pub(super) fn answer_cut(&mut self, content: String) {
        self.push("assistant", content, true);
    }

    fn push(&mut self, role: &'static str, content: String, cut: bool) {
        self.turns.push(Turn { role, content, cut });
    }

    /// Forgets the last turn.
    pub(super) fn take_back(&mut self) {
        self.turns.pop();
    }

    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    /// Returns the messages to send.
    pub(super) fn messages(&self) -> Vec<ChatMessage> {
        let message = |role: &str, content: &str| ChatMessage {
            role: role.into(),
            content: content.into(),
        };
        let system = self.system.iter().map(|system| message("system", system));
        let turns = self.turns.iter().map(|turn| message(turn.role, &turn.content));
        system.chain(turns).collect()
    }

    /// Writes the conversation to a new file: as the API takes it if its name ends in `.json`, else as text.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        let text = if path.extension().is_some_and(|extension| extension == "json") {
            self.to_json()
        } else {
            self.to_text()
        };
        let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
    }

    fn to_json(&self) -> String {
        let system = self
            .system
            .iter()
            .map(|system| json!({"role": "system", "content": system}));
        let turns = self.turns.iter().map(|turn| {
            let mut message = json!({"role": turn.role, "content": turn.content});
            if turn.cut {
                message["cut"] = true.into();
            }
            message
        });
        let messages: Vec<_> = system.chain(turns).collect();
        format!("{:#}\n", json!({ "messages": messages }))
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for message in self
            .system
            .iter()
            .map(|system| ("system", system.as_str(), false))
            .chain(
                self.turns
                    .iter()
                    .map(|turn| (turn.role, turn.content.as_str(), turn.cut)),
            )
        {
            let (role, content, cut) = message;
            let mark = if cut { " [cut]" } else { "" };
            text.push_str(&format!("{role}: {content}{mark}\n\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use kr_boot::exit::with_causes;

    use super::*;

    fn conversation() -> Conversation {
        let mut conversation = Conversation::new(Some("be brief".into()));
        conversation.say("hello".into());
        conversation.answer_cut("Hel".into());
        conversation
    }

    #[test]
    fn a_cut_answer_is_sent_as_it_was_shown_and_marked_when_saved() {
        let conversation = conversation();
        let sent: Vec<_> = conversation
            .messages()
            .into_iter()
            .map(|message| message.content)
            .collect();
        assert_eq!(sent, ["be brief", "hello", "Hel"]);
        assert!(
            conversation
                .to_text()
                .ends_with("user: hello\n\nassistant: Hel [cut]\n\n")
        );
        let json: serde_json::Value = serde_json::from_str(&conversation.to_json()).unwrap();
        assert_eq!(
            json["messages"][2],
            json!({"role": "assistant", "content": "Hel", "cut": true})
        );
    }

    #[test]
    fn clearing_keeps_the_system_message() {
        let mut conversation = conversation();
        conversation.clear();
        assert_eq!(conversation.messages().len(), 1);
        conversation.set_system("be long".into());
        assert_eq!(conversation.messages()[0].content, "be long");
    }

    #[test]
    fn saving_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.txt");
        conversation().save(&path).unwrap();
        assert!(with_causes(&conversation().save(&path).unwrap_err()).contains("exists"));
    }
}
