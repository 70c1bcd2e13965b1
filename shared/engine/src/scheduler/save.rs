//! Saving computed blocks to the prefix cache.
//!
//! When: what a prefill chunk completed is saved after its step, so that those held for it can start; the copies are in
//! proportion to what the step computed and cost a small part of it. Blocks of generated tokens are saved as they fill, a
//! few per step, so that no decode step pays for many: twice as many as fill on average, so that none pile up. What is
//! left when a sequence ends or is preempted is saved before its slot goes.

use std::collections::VecDeque;

use super::hold::Promises;
use super::sequence::Sequence;
use super::{Scheduler, SlotAction};
use crate::prefix_cache::{Place, PrefixCache};

impl Scheduler {
    /// Saves what is due after a step.
    pub(super) fn save_computed(&mut self) {
        if self.cache.store_blocks() == 0 {
            return;
        }
        let block_tokens = usize::try_from(self.limits.block_tokens.max(1)).unwrap_or(usize::MAX);
        let mut generated = 1 + 2 * self.running.len() / block_tokens;
        let mut save = Save {
            cache: &mut self.cache,
            promises: &mut self.promises,
            actions: &mut self.actions,
        };
        for sequence in &mut self.running {
            let known = sequence.known_tokens().min(sequence.computed());
            save.up_to(sequence, known, usize::MAX);
            generated -= save.up_to(sequence, sequence.computed(), generated);
        }
    }

    /// Saves everything that a sequence about to leave its slot has computed.
    pub(super) fn save_all(&mut self, sequence: &mut Sequence) {
        let mut save = Save {
            cache: &mut self.cache,
            promises: &mut self.promises,
            actions: &mut self.actions,
        };
        save.up_to(sequence, sequence.computed(), usize::MAX);
    }
}

struct Save<'a> {
    cache: &'a mut PrefixCache,
    promises: &'a mut Promises,
    actions: &'a mut VecDeque<SlotAction>,
}

impl Save<'_> {
    /// Saves the blocks among the first `tokens` tokens that are not saved yet, at most `limit` copies; returns how many.
    fn up_to(&mut self, sequence: &mut Sequence, tokens: u32, limit: usize) -> usize {
        let (turn, lease) = (sequence.turn, sequence.lease);
        let (Some(prefix), Some(lease)) = (&mut sequence.prefix, lease) else {
            return 0;
        };
        let mut copies = 0;
        while prefix.saves && copies < limit {
            let names = prefix.within(tokens);
            let Some(name) = names.get(prefix.saved).copied() else {
                break;
            };
            let parent = prefix
                .saved
                .checked_sub(1)
                .and_then(|before| names.get(before))
                .copied();
            match self.cache.place(parent, name) {
                Place::Known => {}
                Place::At(block) => {
                    copies += 1;
                    self.actions.push_back(SlotAction::CopyOut {
                        slot: lease.slot,
                        start: prefix.tokens(prefix.saved),
                        block,
                    });
                }
                Place::None => {
                    prefix.saves = false;
                    self.promises.withdraw(turn, prefix.within(u32::MAX));
                    return copies;
                }
            }
            prefix.saved += 1;
        }
        copies
    }
}
