//! What is run, through the engine as a worker does.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kr_contract::{SamplingParams, SequenceId};
use kr_engine::frame::StepFrame;
use kr_engine::{Engine, EngineConfig, FrameSink, SequenceRequest, SinkFull};
use kr_kernels::profile;
use kr_model::{LoadOptions, load};

use crate::timed::{Step, Steps, Timed};

/// Long enough for any model that a person waits for.
const PATIENCE: Duration = Duration::from_secs(300);

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// One token each of so many sequences.
    Decode(u32),
    /// A prompt of so many tokens.
    Prefill(u32),
}

pub(crate) const CASES: [Case; 5] = [
    Case::Decode(1),
    Case::Decode(8),
    Case::Decode(32),
    Case::Prefill(128),
    Case::Prefill(512),
];

impl Case {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Decode(batch) => format!("decode {batch}"),
            Self::Prefill(tokens) => format!("prefill {tokens}"),
        }
    }

    /// Sequences, prompt tokens and tokens to generate of each.
    fn requests(self) -> (u32, u32, u32) {
        match self {
            Self::Decode(batch) => (batch, 32, 48),
            Self::Prefill(tokens) => (1, tokens, 1),
        }
    }

    fn rounds(self) -> u32 {
        match self {
            Self::Decode(_) => 1,
            Self::Prefill(_) => 5,
        }
    }

    fn is_it(self, step: &Step) -> bool {
        match self {
            Self::Decode(batch) => step.tokens == batch as usize && step.sampled == step.tokens,
            Self::Prefill(_) => step.tokens > 1,
        }
    }
}

/// The steps of one case.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) model: String,
    pub(crate) case: Case,
    pub(crate) fingerprint: String,
    pub(crate) steps: Vec<Step>,
}

/// Runs one case on a model of its own.
pub(crate) fn run(folder: &Path, case: Case) -> Result<Profile, Box<dyn std::error::Error>> {
    let (sequences, prompt_tokens, max_tokens) = case.requests();
    let steps = Steps::default();
    let (told, fingerprint) = sync_channel(1);
    let (dir, recorded) = (folder.to_owned(), Arc::clone(&steps));
    let mut engine = Engine::spawn(EngineConfig::default(), move || {
        let options = LoadOptions {
            max_sequences: sequences,
            max_context_tokens: Some(1024),
            ..LoadOptions::default()
        };
        load(&dir, &options).map(|model| {
            // Nobody need be waiting.
            let _ = told.try_send(model.info().fingerprint.to_string());
            Timed {
                model,
                steps: recorded,
                last_read: Instant::now(),
                open: None,
            }
        })
    })?;
    engine.wait_loaded(PATIENCE)?;
    let (sink, frames) = sync_channel(1 << 14);
    let session = engine.handle().attach(Box::new(Sink(sink)))?;
    profile::count(true);
    for round in 0..case.rounds() {
        for sequence in 0..sequences {
            let ids = (0..prompt_tokens).map(|index| (sequence * 97 + round * 61 + index * 31) % 1000 + 3);
            let id = SequenceId(u64::from(round * sequences + sequence) + 1);
            let mut request = SequenceRequest::new(id, ids.collect(), max_tokens);
            request.bypass_prefix_cache = true;
            request.sampling = Arc::new(SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            });
            session.admit(request)?;
        }
        let mut finished = 0;
        while finished < sequences {
            let frame: StepFrame = frames.recv_timeout(PATIENCE)?;
            finished += u32::try_from(frame.sequences.iter().filter(|update| update.finish.is_some()).count())?;
        }
    }
    profile::count(false);
    drop(session);
    engine.handle().shutdown()?;
    engine.join()?;
    let recorded = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Profile {
        model: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        case,
        fingerprint: fingerprint.recv_timeout(PATIENCE)?,
        steps: recorded.into_iter().filter(|step| case.is_it(step)).collect(),
    })
}

struct Sink(SyncSender<StepFrame>);

impl FrameSink for Sink {
    fn try_deliver(&mut self, frame: StepFrame) -> Result<(), SinkFull> {
        self.0.try_send(frame).map_err(|_| SinkFull)
    }
}
