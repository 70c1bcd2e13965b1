//! `kr generate`: one prompt, one answer.

use std::cell::Cell;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

use kr_proto::serve::{ChatMessage, ChatRequest, GenerateRequest, generate_request::Input};

use crate::answer::{self, Answer};
use crate::client::{Server, ServerArgs};
use crate::error::Error;
use crate::options::GenerationArgs;
use crate::terminal;

/// Continue a prompt and print the text as it comes. Figures go to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The prompt; `-`, or nothing with input piped in, reads standard input.
    prompt: Option<String>,
    /// Read the prompt from a file.
    #[arg(long, conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Put the prompt into the model's chat template, as a user's message.
    #[arg(long)]
    chat: bool,
    /// A system message before it; needs --chat.
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// Print one JSON object with text, tokens, usage and receipt at the end.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// No prompt, no server, or the server's status.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    // On a thread of its own: an interrupt must end the program while nothing comes on standard input.
    let reading = tokio::task::spawn_blocking(move || read_prompt(&args).map(|prompt| (prompt, args)));
    let (prompt, args) = reading
        .await
        .map_err(|error| Error::Input(format!("reading the prompt stopped: {error}")))??;
    let server = Server::connect(&args.server).await?;
    let began = Cell::new(false);
    let on_text = |text: &str| {
        if args.json {
            return Ok(());
        }
        began.set(true);
        answer::print(text)
    };
    let started = Instant::now();
    let answer = if args.chat {
        let stream = server.inference().chat(chat_request(&args, prompt)).await?.into_inner();
        Answer::collect(stream, started, on_text).await
    } else {
        let request = GenerateRequest {
            model: args.generation.model.clone(),
            input: Some(Input::Prompt(prompt)),
            parameters: Some(args.generation.parameters()),
            idempotency_key: String::new(),
        };
        let stream = server.inference().generate(request).await?.into_inner();
        Answer::collect(stream, started, on_text).await
    };
    if began.get() {
        answer::print("\n")?;
    }
    let answer = answer?;
    if args.json {
        return Ok(answer::print(&format!("{}\n", answer.to_json()))?);
    }
    terminal::note(&answer.figures());
    Ok(())
}

fn chat_request(args: &Args, prompt: String) -> ChatRequest {
    let message = |role: &str, content: String| ChatMessage {
        role: role.into(),
        content,
    };
    let system = args.system.clone().map(|system| message("system", system));
    ChatRequest {
        model: args.generation.model.clone(),
        messages: system.into_iter().chain([message("user", prompt)]).collect(),
        parameters: Some(args.generation.parameters()),
        idempotency_key: String::new(),
    }
}

fn read_prompt(args: &Args) -> Result<String, Error> {
    if let Some(path) = &args.file {
        return std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        });
    }
    match args.prompt.as_deref() {
        Some("-") => {}
        Some(prompt) => return Ok(prompt.to_owned()),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Input(
                "no prompt: give one as an argument, with --file, or on standard input".into(),
            ));
        }
        None => {}
    }
    let mut prompt = String::new();
    std::io::stdin().read_to_string(&mut prompt)?;
    Ok(prompt)
}
