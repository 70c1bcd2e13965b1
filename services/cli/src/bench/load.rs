//! The requests themselves: closed loop (a next one when one ends) or open loop (random arrivals), never more than
//! `--concurrency` at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::token_uniform;
use kr_proto::serve::{GenerateRequest, Parameters, TokenIds, generate_request::Input};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Args, REQUEST_TIMEOUT};
use crate::answer::Answer;
use crate::client::Server;
use crate::error::Error;
use crate::terminal;

/// What one request took.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) prompt_tokens: usize,
    pub(super) generated_tokens: usize,
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
pub(super) async fn run(server: &Server, args: &Args, prompts: Vec<Vec<u32>>) -> Result<Outcome, Error> {
    let requests = prompts.len();
    let bar = terminal::progress_bar(requests as u64, "{wide_bar} {pos}/{len} requests, {eta} left");
    let places = Arc::new(Semaphore::new(args.concurrency as usize));
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    let mut arrival = Duration::ZERO;
    for (index, prompt) in (0_u32..).zip(prompts) {
        if let Some(rate) = args.rate {
            tokio::time::sleep_until((started + arrival).into()).await;
            arrival +=
                Duration::from_secs_f64(-(1.0 - f64::from(token_uniform(args.seed, u32::MAX, index))).ln() / rate);
        }
        let place = places
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| Error::Input(error.to_string()))?;
        let (server, args, bar) = (server.clone(), args.clone(), bar.clone());
        tasks.spawn(async move {
            let result = tokio::time::timeout(REQUEST_TIMEOUT, one(&server, &args, index, prompt)).await;
            drop(place);
            bar.inc(1);
            result.unwrap_or_else(|_| Err(Error::Input(format!("no end within {REQUEST_TIMEOUT:?}"))))
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
        match result.map_err(|error| Error::Input(format!("a request stopped: {error}")))? {
            Ok(sample) => outcome.samples.push(sample),
            Err(error) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert(kr_boot::exit::with_causes(&error));
            }
        }
    }
    outcome.duration = started.elapsed();
    bar.finish_and_clear();
    Ok(outcome)
}

async fn one(server: &Server, args: &Args, index: u32, prompt: Vec<u32>) -> Result<Sample, Error> {
    let prompt_tokens = prompt.len();
    let request = GenerateRequest {
        model: args.model.clone(),
        input: Some(Input::PromptIds(TokenIds { ids: prompt })),
        parameters: Some(Parameters {
            temperature: Some(args.temperature),
            seed: Some(args.seed.wrapping_add(u64::from(index))),
            max_tokens: Some(args.max_tokens),
            ignore_eos: args.ignore_eos.then_some(true),
            bypass_prefix_cache: (args.shared_prefix_tokens == 0).then_some(true),
            ..Parameters::default()
        }),
        idempotency_key: String::new(),
    };
    let started = Instant::now();
    let stream = server.inference().generate(request).await?.into_inner();
    let answer = Answer::collect(stream, started, |_| Ok(())).await?;
    Ok(Sample {
        prompt_tokens,
        generated_tokens: answer.token_ids.len(),
        time_to_first_token: answer.time_to_first_token,
        time_per_output_token: answer
            .tokens_per_second()
            .map(|speed| Duration::from_secs_f64(1.0 / speed)),
        end_to_end: started.elapsed(),
    })
}
