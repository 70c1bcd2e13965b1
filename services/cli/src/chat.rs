//! `kr chat`: a conversation. An interrupt ends the answer under way and never the program.

mod conversation;
mod editor;
mod entry;
mod input;

use std::io::IsTerminal;
use std::time::Instant;

use kr_proto::serve::ChatRequest;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::conversation::Conversation;
use self::entry::{Command, Entry};
use self::input::Input;
use crate::answer::{self, Answer};
use crate::client::{Server, ServerArgs};
use crate::error::Error;
use crate::options::GenerationArgs;
use crate::terminal;

/// Hold a conversation. /help lists what can be typed beside messages.
///
/// Ctrl-C during an answer cancels it: what came of it stays in the conversation, marked as cut. Ctrl-C at the prompt drops what
/// was typed; Ctrl-D or /exit leaves. With input from a pipe each line is a message, and the first call that fails ends the
/// program.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A system message to begin with.
    #[arg(long)]
    system: Option<String>,
    /// Do not remember what is typed; otherwise it is kept in $XDG_STATE_HOME/kr-serve-mlx/chat_history, for this user only.
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    server: ServerArgs,
}

const HELP: &str = r#"/system TEXT   set the system message; without TEXT show it
/save FILE     write the conversation: as JSON if FILE ends in .json, else as text
/clear         forget the conversation, not the system message
/exit          leave (or Ctrl-D)
//TEXT         send a message that begins with a /
A line that ends with \ goes on in the next one; """ begins and ends a message of several lines.
Ctrl-C cancels an answer."#;

/// Runs the command.
///
/// # Errors
/// No server, or standard input or output failed. On a terminal a failed call is shown and the conversation goes on.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let server = Server::connect(&args.server).await?;
    let on_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut input = if on_terminal {
        Input::terminal(!args.no_history)?
    } else {
        Input::lines()
    };
    let mut conversation = Conversation::new(args.system.clone());
    let mut interrupts = signal(SignalKind::interrupt())?;
    while let Some(entry) = input.next(&mut interrupts).await? {
        match entry {
            Entry::Empty => {}
            Entry::Message(text) => {
                conversation.say(text);
                if on_terminal {
                    // One that came at the prompt is no reason to cancel this answer.
                    interrupts = signal(SignalKind::interrupt())?;
                }
                match turn(&server, &args.generation, &mut conversation, &mut interrupts).await {
                    Ok(()) => {}
                    Err(error @ Error::Output(_)) => return Err(error),
                    Err(error) if !on_terminal => return Err(error),
                    Err(error) => {
                        conversation.take_back();
                        terminal::note(&format!(
                            "\n{}\nthe message was not kept",
                            kr_boot::exit::with_causes(&error)
                        ));
                    }
                }
            }
            Entry::Command(Command::Exit) => break,
            Entry::Command(command) => terminal::note(&obey(command, &mut conversation)),
        }
    }
    Ok(())
}

/// Carries out a command and returns what to tell.
fn obey(command: Command, conversation: &mut Conversation) -> String {
    match command {
        Command::Help | Command::Exit => HELP.into(),
        Command::Clear => {
            conversation.clear();
            "the conversation is forgotten".into()
        }
        Command::System(None) => conversation.system().unwrap_or("there is no system message").into(),
        Command::System(Some(text)) => {
            conversation.set_system(text);
            "the system message is set".into()
        }
        Command::Save(None) => "name a file: /save FILE".into(),
        Command::Save(Some(path)) => match conversation.save(&path) {
            Ok(()) => format!("saved to {}", path.display()),
            Err(error) => kr_boot::exit::with_causes(&error),
        },
        Command::Unknown(name) => format!("there is no command {name}; /help lists them, //TEXT sends /TEXT"),
    }
}

/// Lets the model answer, until it ends or somebody interrupts.
///
/// # Cancellation
/// An interrupt drops the call, which cancels it at the server.
async fn turn(
    server: &Server,
    generation: &GenerationArgs,
    conversation: &mut Conversation,
    interrupts: &mut Signal,
) -> Result<(), Error> {
    let request = ChatRequest {
        model: generation.model.clone(),
        messages: conversation.messages(),
        parameters: Some(generation.parameters()),
        idempotency_key: String::new(),
    };
    let started = Instant::now();
    let mut shown = String::new();
    let answer = async {
        let stream = server.inference().chat(request).await?.into_inner();
        let show = |text: &str| {
            shown.push_str(text);
            answer::print(text)
        };
        Answer::collect(stream, started, show).await
    };
    let answer = tokio::select! {
        answer = answer => Some(answer?),
        _ = interrupts.recv() => None,
    };
    answer::print("\n")?;
    match answer {
        Some(answer) => {
            terminal::note(&answer.figures());
            conversation.answer(answer.text);
        }
        None if shown.is_empty() => {
            terminal::note("cancelled before the first word; the message was not kept");
            conversation.take_back();
        }
        None => {
            terminal::note("cut; the answer so far stays in the conversation");
            conversation.answer_cut(shown);
        }
    }
    Ok(())
}
