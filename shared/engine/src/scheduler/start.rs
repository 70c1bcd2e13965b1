//! Giving waiting sequences a slot: who may start, with which blocks from the prefix cache, and who is held for a prefix.

use std::ops::Bound;
use std::time::Instant;

use super::sequence::{Lease, Sequence, Turn};
use super::{Scheduler, SlotAction};

/// What came of the attempt to start a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It runs, at this index among the running ones.
    Started(usize),
    /// It waits for a prefix that another one computes; those behind it need not.
    Held,
    /// There is no slot or no memory for it. Those behind it wait too: a small one that slipped past could keep a large one
    /// out for ever.
    NoRoom,
}

impl Scheduler {
    /// Returns who waits next behind `turn`, or first of all.
    pub(super) fn waiting_after(&self, turn: Option<Turn>) -> Option<Turn> {
        let from = turn.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.waiting.range((from, Bound::Unbounded));
        behind.next().map(|(turn, _)| *turn)
    }

    /// Tries to start a waiting sequence.
    pub(super) fn start(&mut self, turn: Turn, now: Instant) -> Start {
        let is_starved = self.starved_at == Some(self.releases);
        let is_held_by_somebody = !self.running.is_empty() || !self.leaving.is_empty();
        if self.slots.is_empty() || is_starved && is_held_by_somebody {
            return Start::NoRoom;
        }
        if self.is_held(turn) {
            return Start::Held;
        }
        self.start_now(turn, now).map_or(Start::NoRoom, Start::Started)
    }

    fn start_now(&mut self, turn: Turn, now: Instant) -> Option<usize> {
        let waiting = self.waiting.get(&turn)?;
        let tokens = waiting.start_tokens(self.is_protected(waiting));
        let bucket = self.limits.bucket_for(tokens)?;
        let bytes = self.limits.slot_bytes(bucket);
        if bytes > self.budget.free_bytes() {
            return None;
        }
        let slot = self.slots.lease()?;
        let mut sequence = self.waiting.remove(&turn)?;
        self.budget.take(bytes);
        sequence.lease = Some(Lease { slot, bucket });
        sequence.journal.started(now);
        self.actions.push_back(SlotAction::Acquire {
            sequence: sequence.id,
            slot,
            bucket,
        });
        self.take_prefix(&mut sequence);
        self.running.push(sequence);
        Some(self.running.len() - 1)
    }

    /// Takes the longest cached prefix of a starting sequence, all but one of its known tokens at most: one has to be
    /// computed for the next to be chosen. What it will compute itself is promised to others.
    fn take_prefix(&mut self, sequence: &mut Sequence) {
        let (may_hit, known) = (sequence.may_hit(), sequence.known_tokens());
        let Some(prefix) = &mut sequence.prefix else {
            return;
        };
        let mut tokens = 0;
        if prefix.reads && may_hit {
            let blocks = self.cache.pin(prefix.within(known.saturating_sub(1)));
            prefix.saved = blocks.len();
            tokens = prefix.tokens(blocks.len());
            if let (false, Some(lease)) = (blocks.is_empty(), sequence.lease) {
                self.actions.push_back(SlotAction::CopyIn {
                    sequence: sequence.id,
                    slot: lease.slot,
                    blocks,
                });
            }
        }
        if prefix.saves {
            let own = prefix.within(known).get(prefix.saved..).unwrap_or_default();
            self.promises.promise(sequence.turn, own);
        }
        sequence.copied_to(tokens);
        sequence.journal.hit(tokens.min(sequence.prompt_tokens()));
    }

    /// Returns whether a waiting sequence shares at least one block more with a sequence that is computing it than the cache
    /// holds, and that one gets on.
    fn is_held(&mut self, turn: Turn) -> bool {
        let Some((leader, progress)) = self.leader_of(turn) else {
            return false;
        };
        let waiting = self.waiting.get_mut(&turn);
        waiting.is_some_and(|sequence| sequence.hold.is_worth(leader, progress))
    }

    fn leader_of(&self, turn: Turn) -> Option<(Turn, u32)> {
        let sequence = self.waiting.get(&turn)?;
        let prefix = sequence.prefix.as_ref()?;
        if !prefix.reads || !sequence.may_hit() {
            return None;
        }
        let wanted = prefix.within(sequence.known_tokens().saturating_sub(1));
        let missing = wanted.get(self.cache.cached(wanted))?;
        let leader = self.promises.leader(*missing)?;
        let mut running = self.running.iter();
        let leading = running.find(|sequence| sequence.turn == leader)?;
        Some((leader, leading.planned()))
    }

    /// Takes back what a sequence that leaves its slot has promised and not saved.
    pub(super) fn withdraw_promises(&mut self, sequence: &Sequence) {
        if let Some(prefix) = &sequence.prefix {
            self.promises
                .withdraw(sequence.turn, prefix.within(sequence.known_tokens()));
        }
    }
}
