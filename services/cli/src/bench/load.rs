//! The requests themselves: closed loop (a next one when one ends) or open loop (random arrivals), never more than
//! `--concurrency` at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use kr_contract::token_uniform;
use kr_proto::serve::{GenerateRequest, Parameters, TokenIds, generate_request::Input};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::prompts::Conversation;
use super::{Args, REQUEST_TIMEOUT};
use crate::answer::Answer;
use crate::client::Server;
use crate::error::Error;
use crate::terminal;

/// What one request took.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Which client sent it, and as which of its turns, from 0.
    pub(super) request: u32,
    pub(super) turn: usize,
    pub(super) prompt_ids: Vec<u32>,
    pub(super) token_ids: Vec<u32>,
    /// Prompt tokens taken from the prefix cache, by the receipt.
    pub(super) cached_tokens: u32,
    /// Times it was computed again for want of KV, by the receipt.
    pub(super) preemptions: u32,
    pub(super) time_to_first_token: Duration,
    /// Mean time between tokens after the first; `None` for fewer than two.
    pub(super) time_per_output_token: Option<Duration>,
    pub(super) end_to_end: Duration,
}

/// A finished run.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) requests: usize,
    pub(super) errors: usize,
    pub(super) first_error: Option<String>,
    /// From the first request's start to the last one's end.
    pub(super) duration: Duration,
    pub(super) samples: Vec<Sample>,
}

/// Sends all prompts.
///
/// # Errors
/// A request task stopped; a failed request is counted instead.
pub(super) async fn run(server: &Server, args: &Args, conversations: Vec<Conversation>) -> Result<Outcome, Error> {
    let requests = conversations.iter().map(|conversation| conversation.pieces.len()).sum();
    let bar = terminal::progress_bar(requests as u64, "{wide_bar} {pos}/{len} requests, {eta} left");
    let places = Arc::new(Semaphore::new(args.concurrency as usize));
    let args = Arc::new(args.clone());
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    let mut arrival = Duration::ZERO;
    for (request, conversation) in (0_u32..).zip(conversations) {
        if let Some(rate) = args.rate {
            tokio::time::sleep_until((started + arrival).into()).await;
            arrival +=
                Duration::from_secs_f64(-(1.0 - f64::from(token_uniform(args.seed, u32::MAX, request))).ln() / rate);
        }
        let place = places
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| Error::Input(error.to_string()))?;
        let (server, args, bar) = (server.clone(), args.clone(), bar.clone());
        tasks.spawn(async move {
            let answered = converse(&server, &args, request, conversation, &bar).await;
            drop(place);
            answered
        });
    }
    let mut outcome = Outcome {
        requests,
        errors: 0,
        first_error: None,
        duration: Duration::ZERO,
        samples: Vec::new(),
    };
    while let Some(result) = tasks.join_next().await {
        let (samples, failure) = result.map_err(|error| Error::Input(format!("a request stopped: {error}")))?;
        outcome.samples.extend(samples);
        if let Some(error) = failure {
            outcome.first_error.get_or_insert(kr_boot::exit::with_causes(&error));
        }
    }
    // The turns after a failed one were not sent, and count as failed.
    outcome.errors = requests - outcome.samples.len();
    outcome.duration = started.elapsed();
    bar.finish_and_clear();
    Ok(outcome)
}

/// Sends one conversation, turn after turn, until one fails.
async fn converse(
    server: &Server,
    args: &Args,
    request: u32,
    conversation: Conversation,
    bar: &ProgressBar,
) -> (Vec<Sample>, Option<Error>) {
    let mut samples: Vec<Sample> = Vec::new();
    for (turn, piece) in conversation.pieces.into_iter().enumerate() {
        let mut prompt_ids = match samples.last() {
            Some(before) => [before.prompt_ids.as_slice(), &before.token_ids].concat(),
            None => Vec::new(),
        };
        prompt_ids.extend(piece);
        let ask = Ask {
            request,
            turn,
            prompt_ids,
            max_tokens: conversation.max_tokens,
        };
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, one(server, args, ask)).await;
        bar.inc(1);
        match answered.unwrap_or_else(|_| Err(Error::Input(format!("no end within {REQUEST_TIMEOUT:?}")))) {
            Ok(sample) => samples.push(sample),
            Err(error) => return (samples, Some(error)),
        }
    }
    (samples, None)
}

/// One request to send.
struct Ask {
    request: u32,
    turn: usize,
    prompt_ids: Vec<u32>,
    max_tokens: u32,
}

async fn one(server: &Server, args: &Args, ask: Ask) -> Result<Sample, Error> {
    let request = GenerateRequest {
        model: args.model.clone(),
        input: Some(Input::PromptIds(TokenIds {
            ids: ask.prompt_ids.clone(),
        })),
        parameters: Some(Parameters {
            temperature: Some(args.temperature),
            seed: Some(args.seed.wrapping_add(u64::from(ask.request))),
            max_tokens: Some(ask.max_tokens),
            ignore_eos: args.ignore_eos.then_some(true),
            bypass_prefix_cache: args.bypasses_prefix_cache().then_some(true),
            // What is measured is computed, every time.
            disable_coalescing: Some(true),
            ..Parameters::default()
        }),
        idempotency_key: String::new(),
    };
    let started = Instant::now();
    let stream = server.inference().generate(request).await?.into_inner();
    let answer = Answer::collect(stream, started, |_| Ok(())).await?;
    let finish = answer.finish.as_ref();
    let receipt = finish.and_then(|finish| finish.receipt.clone()).unwrap_or_default();
    Ok(Sample {
        request: ask.request,
        turn: ask.turn,
        cached_tokens: receipt.cached_tokens,
        preemptions: receipt.preemptions,
        time_to_first_token: answer.time_to_first_token,
        time_per_output_token: answer
            .tokens_per_second()
            .map(|speed| Duration::from_secs_f64(1.0 / speed)),
        end_to_end: started.elapsed(),
        prompt_ids: ask.prompt_ids,
        token_ids: answer.token_ids,
    })
}
