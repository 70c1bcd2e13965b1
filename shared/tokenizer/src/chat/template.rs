//! The chat template in its sandbox: no files, no environment, bounded work, memory and output.

use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::{Map, Value as Json};

use super::guard::{Guard, Strength};
use super::{ChatOptions, ChatPrompt, Conversation, json, strftime};
use crate::added_tokens::Match;
use crate::encode::Encoder;
use crate::error::Error;

const NAME: &str = "chat_template";
/// Instructions a rendering may execute; one also pays for 64 bytes of data. A long conversation takes some ten thousand.
const FUEL: u64 = 2_000_000;
const MAX_OUTPUT_BYTES: usize = 8 << 20;
const MAX_RECURSION: usize = 100;

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// `bos_token` and its like.
    special_tokens: Map<String, Json>,
}

/// What a template is rendered with, apart from constants.
#[derive(Debug, Clone, PartialEq)]
struct Inputs {
    messages: Json,
    tools: Json,
    variables: Json,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str, special_tokens: Map<String, Json>) -> Result<Self, Error> {
        // Hugging Face's own extension marks the assistant's tokens for training and writes nothing.
        let source = without_generation_tags(source);
        let mut environment = Environment::new();
        environment.set_debug(false);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(Error::Template)?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::tojson);
        environment
            .add_template_owned(NAME, source.clone())
            .map_err(Error::Template)?;
        Ok(Self {
            environment,
            source,
            special_tokens,
        })
    }

    pub(crate) fn encode(
        &self,
        conversation: &Conversation,
        options: &ChatOptions,
        encoder: &Encoder,
    ) -> Result<ChatPrompt, Error> {
        let inputs = Inputs::of(conversation, options);
        let outside = [&inputs.messages, &inputs.tools, &inputs.variables];
        let guard = Guard::new(encoder.special_texts(), &outside, &self.source).ok_or(Error::ControlTokenInMessage)?;

        let text = self.render(&inputs, options)?;
        for strength in [Strength::EveryBeginning, Strength::WholeTokens] {
            let Some(marked) = inputs.marked(&guard, strength) else {
                let controls = encoder.find_controls(&text, |_| true);
                let ids = encoder.encode_around(&text, &controls, false)?;
                return Ok(ChatPrompt { ids, text });
            };
            // An error here comes from the marks alone, as it went well without them.
            let Ok(marked) = self.render(&marked, options) else {
                continue;
            };
            if guard.without_marks(&marked) == text {
                let controls = unmarked_controls(&guard, &marked, encoder);
                let ids = encoder.encode_around(&text, &controls, false)?;
                return Ok(ChatPrompt { ids, text });
            }
        }
        Err(Error::ControlTokenInMessage)
    }

    fn render(&self, inputs: &Inputs, options: &ChatOptions) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).map_err(Error::Template)?;
        let now = options.now;
        let constants = context! {
            messages => Value::from(Serde(&inputs.messages)),
            tools => Value::from(Serde(&inputs.tools)),
            documents => (),
            add_generation_prompt => options.add_generation_prompt,
            strftime_now => Value::from_function(move |format: &str| strftime_now(now, format)),
        };
        let context = context! {
            ..constants,
            ..Value::from(Serde(&inputs.variables)),
            ..Value::from(Serde(&self.special_tokens)),
        };
        let mut output = BoundedOutput::default();
        match template.render_captured_to(context, &mut output) {
            Ok(_) => String::from_utf8(output.bytes).map_err(|error| Error::Encode(error.into())),
            Err(_) if output.is_full => Err(Error::TemplateOutput {
                limit: MAX_OUTPUT_BYTES,
            }),
            Err(error) => Err(render_error(error)),
        }
    }
}

impl Inputs {
    fn of(conversation: &Conversation, options: &ChatOptions) -> Self {
        let tools = match conversation.tools.as_slice() {
            [] => Json::Null,
            tools => tools.into(),
        };
        Self {
            messages: conversation.messages_json(),
            tools,
            variables: Json::Object(options.variables.clone()),
        }
    }

    /// `None` when nothing has to be marked.
    fn marked(&self, guard: &Guard<'_>, strength: Strength) -> Option<Self> {
        let parts = [&self.messages, &self.tools, &self.variables].map(|part| guard.marked(part, strength));
        if parts.iter().all(Option::is_none) {
            return None;
        }
        let [messages, tools, variables] = parts;
        Some(Self {
            messages: messages.unwrap_or_else(|| self.messages.clone()),
            tools: tools.unwrap_or_else(|| self.tools.clone()),
            variables: variables.unwrap_or_else(|| self.variables.clone()),
        })
    }
}

/// The template's own control tokens, by their place in the text without marks.
fn unmarked_controls(guard: &Guard<'_>, marked: &str, encoder: &Encoder) -> Vec<Match> {
    let mut controls = encoder.find_controls(marked, |at| !guard.is_marked(marked, at));
    let (mut counted_to, mut mark_bytes) = (0, 0);
    // The offsets only grow, so the text is counted through once.
    let mut unmarked = |at: usize| {
        mark_bytes += guard.mark_bytes(&marked[counted_to..at]);
        counted_to = at;
        at - mark_bytes
    };
    for control in &mut controls {
        control.range = unmarked(control.range.start)..unmarked(control.range.end);
    }
    controls
}

fn without_generation_tags(source: &str) -> String {
    let mut kept = source.to_owned();
    for name in ["generation", "endgeneration"] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            let comment_open = if open.ends_with('-') { "{#-" } else { "{#" };
            let comment_close = if close.starts_with('-') { "-#}" } else { "#}" };
            kept = kept.replace(
                &format!("{open} {name} {close}"),
                &format!("{comment_open} {name} {comment_close}"),
            );
        }
    }
    kept
}

/// The text a template gave to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, "raised by the template");
    Err(error.with_source(Raised(message)))
}

fn strftime_now(now: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    strftime::utc(now, format).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "strftime_now cannot write this format").with_source(error)
    })
}

fn render_error(error: minijinja::Error) -> Error {
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        if let Some(Raised(message)) = source.downcast_ref() {
            return Error::Message(message.clone());
        }
        cause = source.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Error::TemplateFuel,
        _ => Error::Template(error),
    }
}

#[derive(Debug, Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.is_full = true;
            return Err(io::Error::other("the output is full"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
