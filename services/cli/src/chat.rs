//! `kr chat`: a conversation on the terminal. An interrupt ends the answer; a second one, or the end of input, the program.

use std::time::Instant;

use kr_proto::serve::{ChatMessage, ChatRequest};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::answer::{self, Answer};
use crate::client::{Server, ServerArgs};
use crate::error::Error;
use crate::options::GenerationArgs;
use crate::terminal;

/// Hold a conversation. An empty line is skipped; /clear forgets the conversation; end of input or /exit leaves.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A system message to begin with.
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// No server, or standard input or output failed. A call's own failure is shown and the conversation goes on.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let server = Server::connect(&args.server).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let opening: Vec<_> = args.system.iter().map(|system| message("system", system)).collect();
    let mut messages = opening.clone();
    loop {
        answer::print("> ")?;
        let line = tokio::select! {
            line = lines.next_line() => line?,
            _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted),
        };
        match line.as_deref().map(str::trim) {
            None | Some("/exit") => return Ok(()),
            Some("") => continue,
            Some("/clear") => messages = opening.clone(),
            Some(text) => {
                messages.push(message("user", text));
                match turn(&server, &args, &messages).await {
                    Ok(answer) => messages.push(message("assistant", &answer.text)),
                    Err(error) => {
                        messages.pop();
                        terminal::note(&format!("\n{error}"));
                    }
                }
            }
        }
    }
}

async fn turn(server: &Server, args: &Args, messages: &[ChatMessage]) -> Result<Answer, Error> {
    let request = ChatRequest {
        model: args.generation.model.clone(),
        messages: messages.to_vec(),
        parameters: Some(args.generation.parameters()),
        idempotency_key: String::new(),
    };
    let started = Instant::now();
    let answer = async {
        let stream = server.inference().chat(request).await?.into_inner();
        Answer::collect(stream, started, answer::print).await
    };
    let answer = tokio::select! {
        answer = answer => answer?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted),
    };
    answer::print("\n")?;
    terminal::note(&answer.figures());
    Ok(answer)
}

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: content.into(),
    }
}
