//! Random histories: whatever is admitted and cancelled when, under whatever limits, the promises hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::BucketId;

/// One command of a history.
#[derive(Debug, Clone)]
enum Move {
    Admit(Wish),
    /// Cancels the n-th sequence that was admitted (modulo).
    Cancel(usize),
    Turn,
}

/// What a sequence asks for.
#[derive(Debug, Clone)]
struct Wish {
    prompt: Vec<TokenId>,
    /// Emitted before, as far as the expected answer goes.
    emitted: usize,
    max_tokens: u32,
    min_tokens: u32,
    ignore_eos: bool,
    priority: i32,
    temperature: f32,
    seed: u64,
}

#[derive(Debug, Clone)]
struct World {
    scheduler: SchedulerConfig,
    model: FakeModelConfig,
}

fn wishes() -> impl Strategy<Value = Wish> {
    let lengths = (
        prop::collection::vec(2..1000_u32, 1..40),
        0..6_usize,
        1..30_u32,
        0..6_u32,
    );
    let choices = (
        any::<bool>(),
        0..3_i32,
        prop_oneof![Just(0.0_f32), Just(0.8)],
        any::<u64>(),
    );
    (lengths, choices).prop_map(
        |((prompt, emitted, max_tokens, min_tokens), (ignore_eos, priority, temperature, seed))| Wish {
            prompt,
            emitted,
            max_tokens,
            min_tokens,
            ignore_eos,
            priority,
            temperature,
            seed,
        },
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => wishes().prop_map(Move::Admit),
        1 => any::<usize>().prop_map(Move::Cancel),
        5 => Just(Move::Turn),
    ];
    prop::collection::vec(one, 1..60)
}

fn worlds() -> impl Strategy<Value = World> {
    let limits = (1..7_u32, 0..=1_u32, 1..5_u64);
    let config = (1..24_u32, 1..8_u32, prop_oneof![Just(0.0), Just(0.1), Just(0.5)]);
    let fault = prop_oneof![4 => Just(None), 1 => (0..4_u8).prop_map(|bucket| Some(BucketId(bucket)))];
    (limits, config, fault).prop_map(|((slots, depth, budget), (step_tokens, sequences, end), fault)| {
        let mut model = fake(ModelLimits {
            max_sequences: slots,
            pipeline_depth: depth,
            kv_budget_bytes: budget * 24,
            ..super::limits()
        });
        model.end_probability = end;
        model.faults.no_memory_for_bucket = fault;
        World {
            scheduler: SchedulerConfig {
                max_step_tokens: step_tokens,
                max_sequences: sequences,
                max_waiting: 8,
            },
            model,
        }
    })
}

/// What is known of one admitted sequence.
#[derive(Debug)]
struct Record {
    priority: i32,
    /// All tokens that a run without end would give, emitted ones included.
    expected: Vec<TokenId>,
    max_generated: usize,
    ignore_eos: bool,
    ids: Vec<TokenId>,
    finish: Option<FinishReason>,
    started: bool,
    /// Steps applied since it was cancelled.
    cancelled_for: Option<u32>,
}

struct Watched {
    rig: Rig,
    world: World,
    records: BTreeMap<u64, Record>,
    sampled: usize,
    delivered: usize,
    wasted: usize,
    seen_actions: usize,
}

impl Watched {
    fn new(world: World) -> Self {
        Self {
            rig: Rig::new(world.scheduler, world.model.clone()),
            world,
            records: BTreeMap::new(),
            sampled: 0,
            delivered: 0,
            wasted: 0,
            seen_actions: 0,
        }
    }

    fn play(&mut self, history: Vec<Move>) {
        let mut work = 0;
        for (index, step) in history.into_iter().enumerate() {
            match step {
                Move::Admit(wish) => {
                    work += wish.prompt.len() + wish.emitted + usize::try_from(wish.max_tokens).unwrap();
                    self.admit(u64::try_from(index).unwrap(), wish);
                }
                Move::Cancel(n) => self.cancel(n),
                Move::Turn => {
                    self.turn();
                }
            }
        }
        // Every turn runs at least one token of somebody who needs it, or ends somebody whose slot has no memory.
        let bound = 2 * work + 10;
        let mut turns = 0;
        while !self.rig.scheduler.is_idle() && turns < bound {
            self.turn();
            turns += 1;
        }
        assert!(self.rig.scheduler.is_idle(), "not done after {turns} turns");
        self.turn();
        self.check_end();
    }

    fn admit(&mut self, id: u64, wish: Wish) {
        let params = SamplingParams {
            temperature: wish.temperature,
            seed: wish.seed,
            min_tokens: wish.min_tokens,
            ignore_eos: wish.ignore_eos,
            ..SamplingParams::default()
        };
        let context = usize::try_from(self.world.model.limits.context_tokens).unwrap();
        let expected = self.world.model.expected_tokens(&wish.prompt, &params, context);
        // What was emitted did not end the sequence.
        let emitted = expected[..wish.emitted.min(expected.len() - 1)].to_vec();
        let room = context.saturating_sub(wish.prompt.len());
        let max_generated = room.min(emitted.len() + usize::try_from(wish.max_tokens).unwrap());
        let request = SequenceRequest {
            emitted: emitted.clone(),
            end_ids: vec![END],
            sampling: Arc::new(params),
            priority: wish.priority,
            ..SequenceRequest::new(SequenceId(id), wish.prompt, wish.max_tokens)
        };
        if self.rig.admit(request).is_ok() {
            self.records.insert(
                id,
                Record {
                    priority: wish.priority,
                    expected,
                    max_generated,
                    ignore_eos: wish.ignore_eos,
                    ids: emitted,
                    finish: None,
                    started: false,
                    cancelled_for: None,
                },
            );
        }
    }

    fn cancel(&mut self, n: usize) {
        let Some(id) = self.records.keys().nth(n % self.records.len().max(1)).copied() else {
            return;
        };
        if let Some(update) = self.rig.cancel(id) {
            self.note(&update);
            self.records.get_mut(&id).unwrap().cancelled_for = Some(0);
        }
    }

    fn turn(&mut self) {
        let planned = self.rig.plans.len();
        let applied = self.rig.turn();
        self.check_starts();
        for plan in self.rig.plans.clone().iter().skip(planned) {
            self.check_plan(plan);
        }
        for update in std::mem::take(&mut self.rig.ended) {
            self.note(&update);
        }
        if let Some(applied) = applied {
            self.wasted += usize::try_from(applied.wasted_tokens).unwrap();
            for update in &applied.updates {
                self.note(update);
            }
            self.check_cancelled();
        }
        self.check_capacity();
    }

    fn note(&mut self, update: &SequenceUpdate) {
        let record = self
            .records
            .get_mut(&update.id.0)
            .expect("only admitted sequences are spoken of");
        assert_eq!(record.finish, None, "{} ended twice or spoke after its end", update.id);
        assert_eq!(
            usize::try_from(update.start_index).unwrap(),
            record.ids.len(),
            "no gap and no repeat"
        );
        record.ids.extend(&update.ids);
        self.delivered += update.ids.len();
        record.finish = update.finish.as_ref().map(|finish| finish.reason);
    }

    /// Nobody starts while somebody of higher priority, or of the same and earlier, still waits.
    fn check_starts(&mut self) {
        let actions = self.rig.actions.clone();
        for action in actions.iter().skip(self.seen_actions) {
            let SlotAction::Acquire { sequence, .. } = action else {
                continue;
            };
            let starting = self.records[&sequence.0].priority;
            let overtaken = self.records.iter().find(|(id, record)| {
                let first = (std::cmp::Reverse(record.priority), **id) < (std::cmp::Reverse(starting), sequence.0);
                first && !record.started && record.finish.is_none()
            });
            assert!(overtaken.is_none(), "{sequence} overtook {overtaken:?}");
            self.records.get_mut(&sequence.0).unwrap().started = true;
        }
        self.seen_actions = actions.len();
    }

    fn check_plan(&mut self, plan: &StepPlan) {
        let budget = usize::try_from(self.world.scheduler.max_step_tokens).unwrap();
        assert!(
            plan.input_tokens() <= budget,
            "{} tokens in a step of {budget}",
            plan.input_tokens()
        );
        let ids: BTreeSet<_> = plan.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!(ids.len(), plan.entries.len());
        for id in ids {
            assert_eq!(
                self.records[&id.0].cancelled_for, None,
                "{id} was planned after its cancellation"
            );
        }
        self.sampled += plan.entries.iter().filter(|entry| entry.sample.is_some()).count();
    }

    /// The slot of a cancelled sequence is free once the steps submitted before are done.
    fn check_cancelled(&mut self) {
        let depth = self.world.model.limits.pipeline_depth;
        for (id, record) in &mut self.records {
            let Some(steps) = &mut record.cancelled_for else {
                continue;
            };
            *steps += 1;
            let leaving = self.rig.scheduler.leaving.iter().any(|sequence| sequence.id.0 == *id);
            assert!(
                !leaving || *steps < depth,
                "{id} still holds its slot after {steps} steps"
            );
        }
    }

    fn check_capacity(&self) {
        let scheduler = &self.rig.scheduler;
        let leased = scheduler.running.len() + scheduler.leaving.len();
        let config = self.world.scheduler;
        let slots = config
            .max_sequences
            .min(config.max_step_tokens)
            .min(self.world.model.limits.max_sequences);
        assert_eq!(leased + scheduler.slots.free_count(), usize::try_from(slots).unwrap());
        let load = scheduler.load();
        assert!(load.kv_used_bytes <= load.kv_budget_bytes, "{load:?}");
    }

    fn check_end(&self) {
        for (id, record) in &self.records {
            let reason = record.finish.unwrap_or_else(|| panic!("{id} never ended"));
            let generated = record.ids.len();
            assert_eq!(record.ids, record.expected[..generated], "sequence {id}");
            match reason {
                FinishReason::Stop => {
                    assert_eq!((record.ids.last(), record.ignore_eos), (Some(&END), false));
                }
                FinishReason::Length => assert_eq!(generated, record.max_generated),
                FinishReason::Cancelled => assert!(record.cancelled_for.is_some()),
                FinishReason::Error => assert!(self.world.model.faults.no_memory_for_bucket.is_some()),
            }
        }
        assert_eq!(
            self.sampled,
            self.delivered + self.wasted,
            "every sampled token is delivered or wasted"
        );
        assert_eq!(self.rig.model.held_slots(), 0);
        let load = self.rig.scheduler.load();
        assert_eq!((load.kv_used_bytes, load.pending_prefill_tokens), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_every_promise(world in worlds(), history in moves()) {
        Watched::new(world).play(history);
    }
}
