//! A worker of the simulation: continuous batching with chunked prefill, at a given pace.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{BlockHash, BlockHasher, FinishReason, SequenceId};
use tokio::sync::mpsc;

use super::Arrival;
use crate::sequence::{Finished, Tokens};
use crate::workers::{Command, End, Frame, Load, Step, Update};

/// Tokens of a block of the prefix cache.
pub(super) const BLOCK_TOKENS: u32 = 16;

/// What a step has to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) sequences: u32,
    pub(super) prefill_tokens: u32,
}

/// How quick a worker is.
pub(super) struct Pace {
    /// Sequences it holds.
    pub(super) places: u32,
    /// Prompt tokens of one step.
    pub(super) step_tokens: u32,
    pub(super) time: Box<dyn Fn(Work) -> Duration>,
}

impl Pace {
    /// A step takes `base` and `each` for every sequence, and a prompt token a hundredth of the base.
    pub(super) fn linear(places: u32, base: Duration, each: Duration) -> Self {
        Self {
            places,
            step_tokens: 512,
            time: Box::new(move |work| base + each * work.sequences + base * work.prefill_tokens / 100),
        }
    }
}

struct Running {
    arrival: usize,
    prompt_left: u32,
    blocks: Vec<BlockHash>,
    generated: u32,
    cancelled: bool,
}

pub(super) struct Worker {
    pace: Pace,
    commands: mpsc::Receiver<Command>,
    arrivals: Arc<[Arrival]>,
    running: BTreeMap<SequenceId, Running>,
    /// Blocks of finished prefills, without bound.
    cached: HashSet<BlockHash>,
    added: Vec<BlockHash>,
    pub(super) cached_tokens: u64,
    pub(super) generated: u64,
    accepted: Vec<SequenceId>,
    step: Option<(Instant, Step)>,
}

impl Worker {
    pub(super) fn new(pace: Pace, commands: mpsc::Receiver<Command>, arrivals: Arc<[Arrival]>) -> Self {
        Self {
            pace,
            commands,
            arrivals,
            running: BTreeMap::new(),
            cached: HashSet::new(),
            added: Vec::new(),
            cached_tokens: 0,
            generated: 0,
            accepted: Vec::new(),
            step: None,
        }
    }

    pub(super) fn step_end(&self) -> Option<Instant> {
        self.step.map(|(end, _)| end)
    }

    /// Reads what it was told and begins a step, unless one runs or there is nothing to do.
    pub(super) fn start_step(&mut self, now: Instant) {
        if self.step.is_some() {
            return;
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Admit(admission) => {
                    let prompt = &admission.request.prompt;
                    let mut hasher = BlockHasher::new(&admission.request.cache_salt);
                    let names = prompt[..prompt.len() - 1].chunks_exact(BLOCK_TOKENS as usize);
                    let blocks: Vec<_> = names.map(|block| hasher.push(block)).collect();
                    let hits = blocks.iter().take_while(|block| self.cached.contains(block)).count();
                    let hit_tokens = u32::try_from(hits).unwrap() * BLOCK_TOKENS;
                    self.cached_tokens += u64::from(hit_tokens);
                    let running = Running {
                        arrival: usize::try_from(admission.request.request_id.0).unwrap(),
                        prompt_left: u32::try_from(prompt.len()).unwrap() - hit_tokens,
                        blocks,
                        generated: 0,
                        cancelled: false,
                    };
                    self.accepted.push(admission.id);
                    self.running.insert(admission.id, running);
                    assert!(self.running.len() <= self.pace.places as usize, "more than its places");
                }
                Command::Cancel(id, _) => {
                    if let Some(running) = self.running.get_mut(&id) {
                        running.cancelled = true;
                    }
                }
            }
        }
        let live = || self.running.values().filter(|running| !running.cancelled);
        let (mut prefill, mut sequences) = (0, 0);
        for running in live() {
            let chunk = running.prompt_left.min(self.pace.step_tokens - prefill);
            prefill += chunk;
            sequences += u32::from(chunk > 0 || running.prompt_left == 0);
        }
        if self.running.is_empty() {
            return;
        }
        let work = Work {
            sequences,
            prefill_tokens: prefill,
        };
        let duration = (self.pace.time)(work);
        let decodes = u32::try_from(live().filter(|running| running.prompt_left == 0).count()).unwrap();
        let step = Step {
            sequences,
            tokens: prefill + decodes,
            duration,
        };
        self.step = Some((now + duration, step));
    }

    /// Ends the step that is over by now.
    pub(super) fn finish_step(&mut self, now: Instant) -> Option<Frame> {
        let (_, step) = self.step.take_if(|(end, _)| *end <= now)?;
        let mut budget = self.pace.step_tokens;
        let mut updates = Vec::new();
        for (id, running) in &mut self.running {
            if running.cancelled {
                let end = End::Cancelled(finished(FinishReason::Cancelled));
                updates.push(update(*id, running.generated, Vec::new(), Some(end)));
                continue;
            }
            let chunk = running.prompt_left.min(budget);
            budget -= chunk;
            let had_prompt_left = running.prompt_left > 0;
            running.prompt_left -= chunk;
            if running.prompt_left > 0 || (had_prompt_left && chunk == 0) {
                continue;
            }
            if running.generated == 0 {
                let new = running.blocks.iter().filter(|block| self.cached.insert(**block));
                self.added.extend(new);
            }
            running.generated += 1;
            self.generated += 1;
            let done = running.generated >= self.arrivals[running.arrival].answer_tokens;
            let end = done.then(|| End::Finished(finished(FinishReason::Stop)));
            updates.push(update(*id, running.generated - 1, vec![7], end));
        }
        for update in updates.iter().filter(|update| update.end.is_some()) {
            self.running.remove(&update.id);
        }
        let left = |running: &Running| u64::from(running.prompt_left);
        Some(Frame {
            accepted: std::mem::take(&mut self.accepted),
            blocks_added: std::mem::take(&mut self.added),
            updates,
            step: (step.sequences > 0).then_some(step),
            load: Load {
                running: u32::try_from(self.running.len()).unwrap(),
                pending_prefill_tokens: self.running.values().map(left).sum(),
                ..Load::default()
            },
            ..Frame::default()
        })
    }
}

fn update(id: SequenceId, start_index: u32, ids: Vec<u32>, end: Option<End>) -> Update {
    let tokens = Tokens {
        start_index,
        ids,
        logprobs: Vec::new(),
    };
    Update {
        id,
        tokens,
        prompt_logprobs: Vec::new(),
        end,
    }
}

fn finished(reason: FinishReason) -> Box<Finished> {
    Box::new(Finished {
        reason,
        waiting: Duration::ZERO,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
        mean_batch_size: 1.0,
        max_batch_size: 1,
        cached_tokens: 0,
        copied_bytes: 0,
        copy_time: Duration::ZERO,
        preemptions: 0,
    })
}
