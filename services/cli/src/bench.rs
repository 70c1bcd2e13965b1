//! `kr bench`: load on a server, figures as JSON.

mod figures;
mod load;
mod messages;
mod prompts;
mod record;

use std::path::PathBuf;
use std::time::Duration;

use crate::answer;
use crate::client::{Server, ServerArgs};
use crate::error::Error;

/// Put load on a server and report throughput and latencies.
///
/// Rates are over the whole run, all requests together: total_tokens_per_s counts prompt and generated tokens,
/// decode_tokens_per_s generated ones. tpot is, for each request, the mean time between its tokens after the first.
/// worker_messages_per_token counts the messages between router and workers in both directions, from the server's
/// /metrics, for each generated token.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests under way at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    concurrency: u32,
    /// Requests in all.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Most tokens of each answer.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// The first N tokens of all prompts are the same; the rest differs.
    #[arg(long, default_value_t = 0)]
    shared_prefix_tokens: u32,
    /// Requests ask for 1/8 up to all of the prompt and answer tokens, instead of all alike.
    #[arg(long)]
    mixed_lengths: bool,
    /// Each request is a conversation of so many turns: the next prompt is the one before, its answer and prompt-tokens
    /// more.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    turns: u32,
    /// Neither read nor write the prefix cache. That is so anyway where neither a prefix is shared nor a turn follows.
    #[arg(long)]
    bypass_prefix_cache: bool,
    /// Start requests at random times, on average this many a second, instead of one after another.
    #[arg(long)]
    rate: Option<f64>,
    /// Chooses prompts, arrival times and sampling seeds.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Generate max-tokens tokens whatever the model says.
    #[arg(long)]
    ignore_eos: bool,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Model to ask; may be left out where only one is served.
    #[arg(long, default_value = "")]
    model: String,
    /// The server's HTTP address, for /metrics; without it worker_messages_per_token is null.
    #[arg(long)]
    http: Option<String>,
    /// Write the ids of every prompt and answer to this file, a line of JSON for each.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// No server, unusable settings, or at least one request failed (the figures are printed first).
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    if args.shared_prefix_tokens > args.prompt_tokens {
        return Err(Error::Input(
            "--shared-prefix-tokens is more than --prompt-tokens; lower it".into(),
        ));
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(Error::Input(
            "--rate is requests per second; give a number above 0".into(),
        ));
    }
    let server = Server::connect(&args.server).await?;
    let prompts = prompts::make(&server, &args).await?;
    let before = messages::count(args.http.as_deref()).await?;
    let outcome = load::run(&server, &args, prompts).await?;
    let after = messages::count(args.http.as_deref()).await?;
    if let Some(file) = &args.record {
        record::write(file, &outcome)?;
    }
    let figures = figures::summarise(&outcome, before.zip(after).map(|(before, after)| after - before));
    if args.json {
        answer::print(&format!("{figures}\n"))?;
    } else {
        answer::print(&format!("{figures:#}\n"))?;
    }
    outcome.first_error.map_or(Ok(()), |first| {
        Err(Error::Bench {
            failed: outcome.errors,
            requests: outcome.requests,
            first,
        })
    })
}

impl Args {
    /// Whether requests leave the prefix cache alone: nothing could be found there, or nothing shall be.
    fn bypasses_prefix_cache(&self) -> bool {
        self.bypass_prefix_cache || (self.shared_prefix_tokens == 0 && self.turns == 1)
    }
}

/// Longest time one request may take before it counts as failed: nothing in a benchmark hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
