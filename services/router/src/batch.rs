//! Which waiting sequences leave the queue together, and where each goes: as many as the workers have room for, in the
//! queue's order, placed by the policy. Pure.

use std::time::Instant;

use crate::policy::{Candidate, Choice, Policy};
use crate::queue::{Entry, Queue};

/// Takes from `queue` what can run now. `candidates` are the ready workers in the order of their index; each gets at most
/// its room. The head of the queue is never passed over: where no worker suits it, everything behind it waits as well.
pub(crate) fn take(
    queue: &mut Queue,
    mut candidates: Vec<Candidate>,
    policy: &mut dyn Policy,
    now: Instant,
) -> Vec<(Entry, Choice)> {
    let mut batch = Vec::new();
    loop {
        candidates.retain(|candidate| candidate.room > 0);
        if candidates.is_empty() {
            break;
        }
        let Some(head) = queue.head(now) else { break };
        let Some(choice) = policy.choose(head, &candidates) else {
            break;
        };
        let Some(chosen) = candidates
            .iter_mut()
            .find(|candidate| candidate.worker == choice.worker)
        else {
            break;
        };
        policy.sent(head, choice.worker);
        chosen.room -= 1;
        chosen.in_flight += 1;
        chosen.pending_prefill_tokens = chosen.pending_prefill_tokens.saturating_add(head.prompt_tokens as u64);
        let key = head.key;
        batch.extend(queue.send(key).map(|entry| (entry, choice)));
    }
    batch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::PolicyKind;
    use crate::policy::tests::{candidate, entry};
    use crate::queue::QueueLimits;
    use crate::sequence::SequenceKey;

    fn queue_of(count: u64) -> Queue {
        let mut queue = Queue::new(QueueLimits::default());
        for key in 0..count {
            let key = SequenceKey(key);
            queue.push(Entry { key, ..entry() }).unwrap();
        }
        queue
    }

    #[test]
    fn a_batch_is_spread_over_the_workers() {
        let mut queue = queue_of(5);
        let candidates = [candidate(0, 0, 0), candidate(1, 1, 0)]
            .map(|candidate| Candidate { room: 2, ..candidate })
            .to_vec();
        let batch = take(
            &mut queue,
            candidates,
            &mut *PolicyKind::LeastLoad.build(1),
            Instant::now(),
        );
        let workers: Vec<_> = batch.iter().map(|(_, choice)| choice.worker.0).collect();
        assert_eq!(workers, [0, 1, 0, 1]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn without_a_worker_everything_keeps_waiting() {
        let mut queue = queue_of(3);
        assert!(
            take(
                &mut queue,
                Vec::new(),
                &mut *PolicyKind::RoundRobin.build(1),
                Instant::now()
            )
            .is_empty()
        );
        assert_eq!(queue.len(), 3);
    }

    proptest! {
        #[test]
        fn no_worker_gets_more_than_its_room_and_no_room_is_left_over(
            rooms in proptest::collection::vec(0..6_u32, 0..5),
            waiting in 0..30_u64,
            policy in 0..PolicyKind::ALL.len(),
        ) {
            let mut queue = queue_of(waiting);
            let candidates: Vec<_> = rooms
                .iter()
                .enumerate()
                .map(|(index, room)| Candidate { room: *room, ..candidate(index, 0, 0) })
                .collect();
            let mut policy = PolicyKind::ALL[policy].0.build(1);
            let batch = take(&mut queue, candidates, &mut *policy, Instant::now());
            for (index, room) in rooms.iter().enumerate() {
                let got = batch.iter().filter(|(_, choice)| choice.worker.0 == index).count();
                prop_assert!(got <= *room as usize);
            }
            let total: u64 = rooms.iter().copied().map(u64::from).sum();
            prop_assert_eq!(batch.len() as u64, waiting.min(total));
            let keys: Vec<_> = batch.iter().map(|(entry, _)| entry.key.0).collect();
            prop_assert_eq!(keys, (0..batch.len() as u64).collect::<Vec<_>>());
        }
    }
}
