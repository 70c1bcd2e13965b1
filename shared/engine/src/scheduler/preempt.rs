//! Making room for slots that must grow: running sequences come before waiting ones, and the newest gives way.

use super::sequence::{Lease, Sequence, Turn};
use super::{Scheduler, SlotAction};
use crate::model::BucketId;

impl Scheduler {
    /// Moves every sequence that needs a longer slot for its next token, the oldest first. Returns whether anybody was
    /// preempted, or has to wait for memory that is on its way back: nobody starts in such a step.
    pub(super) fn make_room(&mut self) -> bool {
        let mut turns: Vec<Turn> = self.running.iter().map(|sequence| sequence.turn).collect();
        turns.sort_unstable();
        let mut is_pressed = false;
        for turn in turns {
            is_pressed |= !self.grow(turn);
        }
        is_pressed
    }

    /// Moves one sequence to a longer slot where it needs one; returns whether it has what it needs.
    fn grow(&mut self, turn: Turn) -> bool {
        let Some(sequence) = self.running.iter().find(|sequence| sequence.turn == turn) else {
            return true;
        };
        let (id, written) = (sequence.id, sequence.planned());
        let (Some(end), Some(lease)) = (sequence.next_decode(), sequence.lease) else {
            return true;
        };
        let Some(bucket) = self.limits.bucket_for(end).filter(|bucket| *bucket > lease.bucket) else {
            return true;
        };
        // While it moves, the old slot and the new one are both there.
        let bytes = self.limits.slot_bytes(bucket);
        if !self.free_up(turn, bytes) {
            return false;
        }
        self.budget.take(bytes);
        self.budget.give_back(self.limits.slot_bytes(lease.bucket));
        self.set_bucket(turn, bucket);
        self.actions.push_back(SlotAction::Promote {
            sequence: id,
            slot: lease.slot,
            bucket,
            written,
        });
        true
    }

    /// Preempts sequences newer than `turn` until `bytes` are free; where all of them together would not do, `turn` itself.
    /// Returns whether the bytes are free now: what open steps still use comes back later.
    fn free_up(&mut self, turn: Turn, bytes: u64) -> bool {
        let mut coming = self.budget.free_bytes() + self.bytes_on_their_way_back();
        let mut victims: Vec<(Turn, u64)> = self
            .running
            .iter()
            .filter(|sequence| sequence.turn > turn && !sequence.is_vacating && !self.is_protected(sequence))
            .map(|sequence| (sequence.turn, self.held_bytes(sequence)))
            .collect();
        victims.sort_unstable();
        let possible: u64 = victims.iter().map(|(_, bytes)| bytes).sum();
        if bytes > coming + possible {
            self.preempt(turn);
            return false;
        }
        while bytes > coming
            && let Some((victim, bytes)) = victims.pop()
        {
            self.preempt(victim);
            coming += bytes;
        }
        bytes <= self.budget.free_bytes()
    }

    /// Takes a running sequence's slot away, at once or when the open steps that use it are done.
    pub(super) fn preempt(&mut self, turn: Turn) {
        if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.turn == turn) {
            tracing::debug!(sequence = sequence.id.0, tokens = sequence.computed(), "preempted");
            sequence.is_vacating = true;
            sequence.journal.preempted();
        }
        self.vacate_idle();
    }

    /// Puts preempted sequences whose slot no open step uses back to those that wait, by priority and arrival: before
    /// everything of their priority that has not started. What they have computed stays in the prefix cache, as far as it goes.
    pub(super) fn vacate_idle(&mut self) {
        let is_due = |sequence: &Sequence| sequence.is_vacating && sequence.open_steps == 0;
        while let Some(index) = self.running.iter().position(is_due) {
            let mut sequence = self.running.remove(index);
            self.save_all(&mut sequence);
            self.free_lease(&sequence);
            self.withdraw_promises(&sequence);
            sequence.reset();
            self.waiting.insert(sequence.turn, sequence);
        }
    }

    /// Gives back the slot of a sequence that no open step uses.
    pub(super) fn free_lease(&mut self, sequence: &Sequence) {
        if let Some(lease) = sequence.lease {
            self.budget.give_back(self.limits.slot_bytes(lease.bucket));
            self.slots.free(lease.slot);
            self.releases += 1;
            self.actions.push_back(SlotAction::Release { slot: lease.slot });
        }
    }

    /// Returns whether a sequence was preempted as often as it may be: from its next start on it keeps a slot for its whole
    /// length.
    pub(super) fn is_protected(&self, sequence: &Sequence) -> bool {
        sequence.journal.preemptions() >= self.max_preemptions
    }

    fn set_bucket(&mut self, turn: Turn, bucket: BucketId) {
        let mut running = self.running.iter_mut();
        let found = running.find(|sequence| sequence.turn == turn);
        if let Some(Lease { bucket: held, .. }) = found.and_then(|sequence| sequence.lease.as_mut()) {
            *held = bucket;
        }
    }

    fn held_bytes(&self, sequence: &Sequence) -> u64 {
        sequence.lease.map_or(0, |lease| self.limits.slot_bytes(lease.bucket))
    }

    fn bytes_on_their_way_back(&self) -> u64 {
        let vacating = self.running.iter().filter(|sequence| sequence.is_vacating);
        vacating
            .chain(&self.leaving)
            .map(|sequence| self.held_bytes(sequence))
            .sum()
    }
}
