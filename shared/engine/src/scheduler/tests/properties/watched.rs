//! A rig whose every move is checked.

use std::collections::{BTreeMap, BTreeSet};

use kr_contract::BlockHash;

use super::*;
use crate::model::Logprobs;

/// What is known of one admitted sequence.
#[derive(Debug)]
struct Record {
    wish: Wish,
    /// All tokens that a run without end would give, emitted ones included.
    expected: Vec<TokenId>,
    max_generated: usize,
    ids: Vec<TokenId>,
    scores: Vec<Logprobs>,
    finish: Option<Finish>,
    has_started: bool,
    /// Steps applied since it was cancelled.
    cancelled_for: Option<u32>,
}

pub(super) struct Watched {
    rig: Rig,
    world: World,
    records: BTreeMap<u64, Record>,
    /// What the reported changes of the prefix cache add up to.
    blocks: BTreeSet<BlockHash>,
    turns: u32,
    sampled: usize,
    delivered: usize,
    wasted: usize,
    seen_actions: usize,
}

impl Watched {
    pub(super) fn new(world: World) -> Self {
        Self {
            rig: Rig::new(world.scheduler, world.model.clone()),
            world,
            records: BTreeMap::new(),
            blocks: BTreeSet::new(),
            turns: 0,
            sampled: 0,
            delivered: 0,
            wasted: 0,
            seen_actions: 0,
        }
    }

    pub(super) fn play(&mut self, history: Vec<Move>) {
        for (index, step) in history.into_iter().enumerate() {
            match step {
                Move::Admit(wish) => self.admit(u64::try_from(index).unwrap(), wish),
                Move::Cancel(n) => self.cancel(n),
                Move::Turn => self.turn(),
            }
        }
        let bound = self.turns + self.most_turns();
        while !self.rig.scheduler.is_idle() && self.turns < bound {
            self.turn();
        }
        assert!(self.rig.scheduler.is_idle(), "not done after {} turns", self.turns);
        self.turn();
        self.check_end();
    }

    /// Every turn computes a token of somebody who needs it; each may be computed as often as its sequence loses its slot,
    /// to older ones or for want of memory.
    fn most_turns(&self) -> u32 {
        let context = self.world.model.limits.context_tokens;
        let admitted = u32::try_from(self.records.len()).unwrap();
        let losses = self.world.scheduler.max_preemptions + 1;
        2 * admitted * context * losses + 10
    }

    fn admit(&mut self, id: u64, wish: Wish) {
        let context = usize::try_from(self.world.model.limits.context_tokens).unwrap();
        let expected = self.world.model.expected_tokens(&wish.prompt, &wish.sampling, context);
        // What was emitted did not end the sequence.
        let emitted = expected[..wish.emitted.min(expected.len() - 1)].to_vec();
        let room = context.saturating_sub(wish.prompt.len());
        let max_generated = room.min(emitted.len() + usize::try_from(wish.max_tokens).unwrap());
        let request = SequenceRequest {
            emitted: emitted.clone(),
            end_ids: vec![END],
            sampling: Arc::new(wish.sampling.clone()),
            priority: wish.priority,
            cache_salt: wish.cache_salt.clone(),
            bypass_prefix_cache: wish.bypass_prefix_cache,
            prompt_logprobs: wish.prompt_logprobs,
            ..SequenceRequest::new(SequenceId(id), wish.prompt.clone(), wish.max_tokens)
        };
        if self.rig.admit(request).is_ok() {
            let record = Record {
                wish,
                expected,
                max_generated,
                ids: emitted,
                scores: Vec::new(),
                finish: None,
                has_started: false,
                cancelled_for: None,
            };
            self.records.insert(id, record);
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
        self.turns += 1;
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
        self.check_blocks();
    }

    fn note(&mut self, update: &SequenceUpdate) {
        let record = self
            .records
            .get_mut(&update.id.0)
            .expect("only admitted sequences are spoken of");
        assert!(
            record.finish.is_none(),
            "{} ended twice or spoke after its end",
            update.id
        );
        assert_eq!(
            usize::try_from(update.start_index).unwrap(),
            record.ids.len(),
            "no gap and no repeat"
        );
        record.scores.extend(update.prompt_logprobs.iter().cloned());
        if let Some(top) = record.wish.prompt_logprobs {
            let expected = self.world.model.expected_prompt_logprobs(&record.wish.prompt, top);
            assert_eq!(record.scores, expected[..record.scores.len()]);
            assert!(update.ids.is_empty() || record.scores.len() == expected.len());
        } else {
            assert!(record.scores.is_empty());
        }
        record.ids.extend(&update.ids);
        self.delivered += update.ids.len();
        record.finish.clone_from(&update.finish);
    }

    /// Nobody starts while somebody of higher priority, or of the same and earlier, still waits, unless that one is held for
    /// a prefix.
    fn check_starts(&mut self) {
        let actions = self.rig.actions.clone();
        let is_off = self.world.model.limits.store_blocks == 0;
        for action in actions.iter().skip(self.seen_actions) {
            let SlotAction::Acquire { sequence, .. } = action else {
                continue;
            };
            let turn = |id: u64, record: &Record| (std::cmp::Reverse(record.wish.priority), id);
            let starting = turn(sequence.0, &self.records[&sequence.0]);
            let overtaken = self.records.iter().find(|(id, record)| {
                let may_be_held = !is_off && !record.wish.bypass_prefix_cache;
                let waits = !record.has_started && record.finish.is_none();
                turn(**id, record) < starting && waits && !may_be_held
            });
            assert!(overtaken.is_none(), "{sequence} overtook {overtaken:?}");
            self.records.get_mut(&sequence.0).unwrap().has_started = true;
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
            assert!(self.records[&id.0].finish.is_none(), "{id} was planned after its end");
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
        let held: Vec<_> = scheduler.running.iter().chain(&scheduler.leaving).collect();
        let config = self.world.scheduler;
        let slots = config
            .max_sequences
            .min(config.max_step_tokens)
            .min(self.world.model.limits.max_sequences);
        assert_eq!(
            held.len() + scheduler.slots.free_count(),
            usize::try_from(slots).unwrap()
        );
        assert_eq!(held.len(), self.rig.model.held_slots());
        let load = scheduler.load();
        assert!(load.kv_used_bytes <= load.kv_budget_bytes, "{load:?}");
        let leases = held.iter().filter_map(|sequence| sequence.lease);
        let bytes: u64 = leases
            .map(|lease| self.world.model.limits.slot_bytes(lease.bucket))
            .sum();
        assert_eq!(load.kv_used_bytes, bytes);
    }

    /// What frames report adds up to what can be hit; between steps no copy is under way.
    fn check_blocks(&mut self) {
        let held = self.rig.scheduler.cache.check();
        assert_eq!(self.rig.scheduler.cache.pins(), 0);
        if self.turns.is_multiple_of(3) {
            return;
        }
        let (added, evicted) = self.rig.scheduler.take_block_changes();
        added.iter().for_each(|name| assert!(self.blocks.insert(*name)));
        evicted.iter().for_each(|name| assert!(self.blocks.remove(name)));
        assert_eq!(self.blocks, held);
    }

    fn check_end(&self) {
        for (id, record) in &self.records {
            let finish = record.finish.as_ref().unwrap_or_else(|| panic!("{id} never ended"));
            self.check_finish(*id, record, finish);
        }
        assert_eq!(
            self.sampled,
            self.delivered + self.wasted,
            "every sampled token is delivered or wasted"
        );
        assert_eq!(self.rig.model.held_slots(), 0);
        assert_eq!(self.rig.scheduler.promises.len(), 0);
        let load = self.rig.scheduler.load();
        assert_eq!((load.kv_used_bytes, load.pending_prefill_tokens), (0, 0));
    }

    fn check_finish(&self, id: u64, record: &Record, finish: &Finish) {
        let generated = record.ids.len();
        assert_eq!(record.ids, record.expected[..generated], "sequence {id}");
        match finish.reason {
            FinishReason::Stop => {
                let ignores_end = record.wish.sampling.ignore_eos;
                assert_eq!((record.ids.last(), ignores_end), (Some(&END), false));
            }
            FinishReason::Length => assert_eq!(generated, record.max_generated),
            FinishReason::Cancelled => assert!(record.cancelled_for.is_some()),
            // Nothing fails but what no memory can be had for, ever.
            FinishReason::Error => assert!(self.world.model.faults.no_memory_for_bucket.is_some()),
        }
        let timings = finish.timings;
        let prompt_tokens = u32::try_from(record.wish.prompt.len()).unwrap();
        assert!(timings.cached_tokens <= prompt_tokens);
        if record.wish.bypass_prefix_cache || record.wish.prompt_logprobs.is_some() {
            assert_eq!(timings.cached_tokens, 0);
        }
        if self.world.model.faults == FakeFaults::default() {
            assert!(timings.preemptions <= self.world.scheduler.max_preemptions);
        }
    }
}
