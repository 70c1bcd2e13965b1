//! One promise per test; histories of random commands are in `properties`.

mod admission;
mod chunks;
mod finishing;
mod memory;
mod planning;
mod prefix;
mod properties;
mod scores;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kr_contract::{FinishReason, SamplingParams, SequenceId, TokenId};

use super::{Applied, Scheduler, SchedulerConfig, SlotAction};
use crate::engine::slots::perform_next;
use crate::estimate::StepEstimate;
use crate::fake::{FakeFaults, FakeModel, FakeModelConfig, FakeTicket};
use crate::frame::{Finish, SequenceUpdate};
use crate::model::{Model, ModelLimits, StepPlan};
use crate::{Reject, SequenceRequest};

const END: TokenId = 1;

/// A scheduler and a fake model, joined as the engine's loop joins them, under a clock that moves 1 ms a step.
struct Rig {
    config: FakeModelConfig,
    model: FakeModel,
    scheduler: Scheduler,
    now: Instant,
    estimate: StepEstimate,
    open: VecDeque<FakeTicket>,
    /// Every plan so far, as submitted.
    plans: Vec<StepPlan>,
    /// Every slot action so far.
    actions: Vec<SlotAction>,
    /// Ends outside of apply.
    ended: Vec<SequenceUpdate>,
}

impl Rig {
    fn new(scheduler: SchedulerConfig, config: FakeModelConfig) -> Self {
        Self {
            model: FakeModel::new(config.clone()),
            scheduler: Scheduler::new(scheduler, config.limits.clone()),
            config,
            now: Instant::now(),
            estimate: StepEstimate::default(),
            open: VecDeque::new(),
            plans: Vec::new(),
            actions: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn admit(&mut self, request: SequenceRequest) -> Result<(), Reject> {
        self.scheduler.admit(request, self.now)
    }

    fn cancel(&mut self, id: u64) -> Option<SequenceUpdate> {
        self.scheduler.cancel(SequenceId(id), self.now)
    }

    /// Plans and submits one step; returns its plan.
    fn submit(&mut self) -> Option<StepPlan> {
        let plan = self.scheduler.plan(self.now, &self.estimate);
        let may_be_none = !self.open.is_empty() || self.scheduler.is_idle();
        assert!(plan.is_some() || may_be_none, "the engine would give up");
        let mut plan = plan.unwrap_or(StepPlan {
            step: 0,
            entries: Vec::new(),
        });
        self.perform(&mut plan);
        if plan.entries.is_empty() {
            return None;
        }
        self.open.push_back(self.model.submit(&plan).unwrap());
        self.plans.push(plan.clone());
        Some(plan)
    }

    fn perform(&mut self, plan: &mut StepPlan) {
        while let Some(performed) = perform_next(&mut self.scheduler, &mut self.model, plan, self.now).unwrap() {
            self.actions.push(performed.action);
            self.ended.extend(performed.ended);
        }
    }

    fn perform_rest(&mut self) {
        self.perform(&mut StepPlan {
            step: 0,
            entries: Vec::new(),
        });
    }

    /// Waits for the oldest open step.
    fn finish_step(&mut self) -> Applied {
        let ticket = self.open.pop_front().unwrap();
        let output = self.model.wait(ticket).unwrap();
        self.now += Duration::from_millis(1);
        let applied = self.scheduler.apply(output, self.now).unwrap();
        self.perform_rest();
        applied
    }

    /// One turn of the loop, as deep as the pipeline goes; `None` where nothing is left to run.
    fn turn(&mut self) -> Option<Applied> {
        // A plan from which everybody left for want of memory is made again.
        for _ in 0..100 {
            if let Some(applied) = self.try_turn() {
                return Some(applied);
            }
            if self.scheduler.is_idle() {
                return None;
            }
        }
        panic!("no step for {:?}", self.scheduler.load());
    }

    fn try_turn(&mut self) -> Option<Applied> {
        let depth = usize::try_from(self.config.limits.pipeline_depth).unwrap();
        while self.open.len() <= depth && self.submit().is_some() {}
        (!self.open.is_empty()).then(|| self.finish_step())
    }

    /// Runs until nothing is left and returns everything said about sequence `id`: its ids, and how it ended.
    fn run_to_end(&mut self, id: u64) -> (Vec<TokenId>, Finish) {
        self.run_all().remove(&id).unwrap()
    }

    /// Runs until nothing is left and returns everything said about each sequence that ends.
    fn run_all(&mut self) -> BTreeMap<u64, (Vec<TokenId>, Finish)> {
        let mut ids: BTreeMap<u64, Vec<TokenId>> = BTreeMap::new();
        let mut finished = BTreeMap::new();
        loop {
            let applied = self.turn();
            let updates = applied.iter().flat_map(|applied| applied.updates.clone());
            for update in updates.chain(self.ended.drain(..)) {
                let ids = ids.entry(update.id.0).or_default();
                ids.extend(update.ids);
                if let Some(finish) = update.finish {
                    finished.insert(update.id.0, (ids.clone(), finish));
                }
            }
            if applied.is_none() {
                return finished;
            }
        }
    }
}

fn limits() -> ModelLimits {
    ModelLimits {
        context_tokens: 64,
        max_sequences: 4,
        bucket_tokens: vec![8, 16, 32, 64],
        kv_bytes_per_token: 1,
        kv_budget_bytes: 4 * 64,
        block_tokens: 8,
        store_blocks: 0,
        pipeline_depth: 0,
    }
}

fn fake(limits: ModelLimits) -> FakeModelConfig {
    FakeModelConfig {
        limits,
        vocabulary: 1000,
        end_token: END,
        ..FakeModelConfig::default()
    }
}

fn scheduler(max_step_tokens: u32) -> SchedulerConfig {
    SchedulerConfig {
        max_step_tokens,
        decode_step_target: None,
        ..SchedulerConfig::default()
    }
}

/// A rig of four slots that prefills up to 16 tokens a step.
fn rig() -> Rig {
    Rig::new(scheduler(16), fake(limits()))
}

fn rig_of_depth(pipeline_depth: u32) -> Rig {
    let limits = ModelLimits {
        pipeline_depth,
        ..limits()
    };
    Rig::new(scheduler(16), fake(limits))
}

/// A greedy request whose prompt of `prompt_tokens` is its own.
fn request(id: u64, prompt_tokens: u32, max_tokens: u32) -> SequenceRequest {
    let first = TokenId::try_from(id * 100).unwrap();
    SequenceRequest {
        end_ids: vec![END],
        sampling: Arc::new(SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        }),
        ..SequenceRequest::new(SequenceId(id), (first..first + prompt_tokens).collect(), max_tokens)
    }
}

fn lengths(plan: &StepPlan) -> Vec<(u64, usize)> {
    let entries = plan.entries.iter();
    entries.map(|entry| (entry.sequence.0, entry.input.len())).collect()
}

fn reason(update: Option<SequenceUpdate>) -> Option<FinishReason> {
    update.and_then(|update| update.finish).map(|finish| finish.reason)
}
