//! `kr generate`: one prompt, one answer or several.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

use kr_proto::serve::{ChatMessage, ChatRequest, GenerateRequest, Parameters, generate_request::Input};

use crate::answer::{self, Answers, News, Turns};
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
    /// Answers to give; shown one after another.
    #[arg(short = 'n', long = "choices", value_name = "N", default_value_t = 1)]
    choices: u32,
    /// Report log probabilities of the prompt's tokens too, in the JSON object, with this many most likely ones beside each.
    #[arg(long, requires = "json")]
    prompt_logprobs: Option<u32>,
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
    let mut turns = Turns::of(args.choices);
    let on_news = |choice: u32, news: News<'_>| match args.json {
        true => Ok(()),
        false => answer::print(&turns.show(choice, news)),
    };
    let started = Instant::now();
    let (answers, result) = if args.chat {
        let stream = server.inference().chat(chat_request(&args, prompt)).await?.into_inner();
        Answers::collect(stream, started, on_news).await
    } else {
        let request = GenerateRequest {
            model: args.generation.model.clone(),
            input: Some(Input::Prompt(prompt)),
            parameters: Some(parameters(&args)),
            idempotency_key: String::new(),
        };
        let stream = server.inference().generate(request).await?.into_inner();
        Answers::collect(stream, started, on_news).await
    };
    if args.json {
        // What came before a failure, with its receipt, is part of what a script wants to know of it.
        let error = result.as_ref().err().map(|error| kr_boot::exit::with_causes(error));
        answer::print(&format!("{}\n", answers.to_json(error.as_deref())))?;
        return result;
    }
    answer::print(turns.cut())?;
    result?;
    terminal::note(&answers.figures());
    Ok(())
}

fn parameters(args: &Args) -> Parameters {
    Parameters {
        n: (args.choices != 1).then_some(args.choices),
        prompt_logprobs: args.prompt_logprobs,
        ..args.generation.parameters()
    }
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
        parameters: Some(parameters(args)),
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
