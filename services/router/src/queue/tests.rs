use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(capacity: usize) -> QueueLimits {
    QueueLimits {
        capacity,
        ageing: 10 * SECOND,
        max_wait_without_worker: 30 * SECOND,
    }
}

fn entry(key: u64, priority: Priority, since: Instant) -> Entry {
    Entry {
        key: SequenceKey(key),
        tenant: Tenant(Arc::from("default")),
        priority,
        since,
        deadline: None,
        prompt_tokens: 1,
    }
}

fn pop(queue: &mut Queue, now: Instant) -> Option<u64> {
    let key = queue.head(now)?.key;
    queue.remove(key).map(|entry| entry.key.0)
}

fn drained(queue: &mut Queue, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| pop(queue, now)).collect()
}

#[test]
fn higher_priority_goes_first_and_equal_ones_in_order() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(8));
    for (key, priority) in [
        (1, Priority::Low),
        (2, Priority::Normal),
        (3, Priority::High),
        (4, Priority::Normal),
        (5, Priority::High),
    ] {
        queue.push(entry(key, priority, now)).unwrap();
    }
    assert_eq!(drained(&mut queue, now), [3, 5, 2, 4, 1]);
}

#[test]
fn a_full_queue_refuses_new_ones_but_takes_back_old_ones() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(1));
    queue.push(entry(1, Priority::High, now)).unwrap();
    assert_eq!(queue.push(entry(2, Priority::High, now)), Err(Full));
    queue.push_returned(entry(3, Priority::Low, now));
    assert_eq!(drained(&mut queue, now), [3, 1]);
}

#[test]
fn expired_requests_leave_the_queue() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(8));
    for (key, seconds) in [(1, 2), (2, 1), (3, 3)] {
        let deadline = Some(now + seconds * SECOND);
        queue
            .push(Entry {
                deadline,
                ..entry(key, Priority::Normal, now)
            })
            .unwrap();
    }
    assert_eq!(queue.next_expiry(), Some(now + SECOND));
    let expired: Vec<_> = queue
        .take_expired(now + 2 * SECOND)
        .iter()
        .map(|entry| entry.key.0)
        .collect();
    assert_eq!(expired, [2, 1]);
    assert_eq!(queue.next_expiry(), Some(now + 3 * SECOND));
    queue.remove(SequenceKey(3)).unwrap();
    assert_eq!(queue.next_expiry(), None);
}

#[test]
fn a_low_priority_waits_at_most_two_ages_behind_newcomers() {
    let start = Instant::now();
    let mut queue = Queue::new(limits(8));
    queue.push(entry(1, Priority::Low, start)).unwrap();
    let before = start + 20 * SECOND - Duration::from_millis(1);
    queue.push(entry(2, Priority::High, before)).unwrap();
    assert_eq!(queue.head(before).unwrap().key.0, 2);
    assert_eq!(queue.head(start + 20 * SECOND).unwrap().key.0, 1);
}

#[test]
fn patience_counts_only_time_without_a_worker() {
    let start = Instant::now();
    let mut queue = Queue::new(limits(8));
    queue.push(entry(1, Priority::Normal, start)).unwrap();
    let lost = start + 100 * SECOND;
    queue.push(entry(2, Priority::Normal, lost + SECOND)).unwrap();
    assert_eq!(queue.next_impatient(lost), Some(lost + 30 * SECOND));
    assert!(queue.take_impatient(lost, lost + 29 * SECOND).is_empty());
    let left: Vec<_> = queue
        .take_impatient(lost, lost + 30 * SECOND)
        .iter()
        .map(|entry| entry.key.0)
        .collect();
    assert_eq!(left, [1]);
    assert_eq!(queue.len(), 1);
}

/// One thing that may happen to a queue.
#[derive(Debug, Clone)]
enum Step {
    Push { priority: u8, patience_s: Option<u8> },
    Dispatch,
    Return,
    Abandon(u8),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, proptest::option::of(0..20_u8))
            .prop_map(|(priority, patience_s)| Step::Push { priority, patience_s }),
        2 => Just(Step::Dispatch),
        1 => Just(Step::Return),
        1 => any::<u8>().prop_map(Step::Abandon),
        2 => (0..8_u8).prop_map(Step::Wait),
    ]
}

/// A queue with a ledger of what became of every sequence.
struct Ledger {
    queue: Queue,
    now: Instant,
    accepted: u64,
    waiting: Vec<Entry>,
    dispatched: Vec<Entry>,
    expired: usize,
    abandoned: usize,
}

impl Ledger {
    fn new(capacity: usize) -> Self {
        Self {
            queue: Queue::new(limits(capacity)),
            now: Instant::now(),
            accepted: 0,
            waiting: Vec::new(),
            dispatched: Vec::new(),
            expired: 0,
            abandoned: 0,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { priority, patience_s } => self.push(priority, patience_s),
            Step::Dispatch => {
                if let Some(head) = self.queue.head(self.now).cloned() {
                    self.check_order(&head);
                    self.forget(head.key);
                    self.dispatched.push(self.queue.remove(head.key).unwrap());
                }
            }
            Step::Return => {
                if let Some(entry) = self.dispatched.pop() {
                    self.waiting.push(entry.clone());
                    self.queue.push_returned(entry);
                }
            }
            Step::Abandon(which) => {
                if !self.waiting.is_empty() {
                    let entry = self.waiting.remove(usize::from(which) % self.waiting.len());
                    assert_eq!(self.queue.remove(entry.key), Some(entry));
                    self.abandoned += 1;
                }
            }
            Step::Wait(seconds) => {
                self.now += u32::from(seconds) * SECOND;
                for entry in self.queue.take_expired(self.now) {
                    assert!(entry.deadline.unwrap() <= self.now);
                    self.forget(entry.key);
                    self.expired += 1;
                }
            }
        }
    }

    fn push(&mut self, priority: u8, patience_s: Option<u8>) {
        let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(priority)];
        let entry = Entry {
            deadline: patience_s.map(|seconds| self.now + u32::from(seconds) * SECOND),
            ..entry(self.accepted, priority, self.now)
        };
        let full = self.queue.len() >= self.queue.limits().capacity;
        assert_eq!(self.queue.push(entry.clone()).is_err(), full);
        if !full {
            self.waiting.push(entry);
            self.accepted += 1;
        }
    }

    fn forget(&mut self, key: SequenceKey) {
        let before = self.waiting.len();
        self.waiting.retain(|entry| entry.key != key);
        assert_eq!(self.waiting.len() + 1, before);
    }

    /// Nobody of the same or a higher priority who came earlier may be passed over, returned ones apart.
    fn check_order(&self, head: &Entry) {
        let returned = self.dispatched.iter().all(|entry| entry.key != head.key)
            && self.queue.places[&head.key].0 == Lane::Returned;
        if returned {
            return;
        }
        for other in &self.waiting {
            assert!(
                other.key >= head.key || other.priority < head.priority,
                "{head:?} goes before {other:?}"
            );
            let aged_out = self.now.saturating_duration_since(other.since) >= 2 * self.queue.limits().ageing;
            assert!(!aged_out || other.key >= head.key, "{other:?} starves behind {head:?}");
        }
    }

    fn check_conservation(&self) {
        let known = self.dispatched.len() + self.expired + self.abandoned + self.queue.len();
        assert_eq!(usize::try_from(self.accepted).unwrap(), known);
        assert_eq!(self.waiting.len(), self.queue.len());
        assert_eq!(self.queue.places.len(), self.queue.len());
        let deadlines = self.waiting.iter().filter_map(|entry| entry.deadline);
        assert_eq!(self.queue.next_expiry(), deadlines.min());
    }
}

proptest! {
    #[test]
    fn any_history_conserves_order_and_bounds(
        capacity in 1..12_usize,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut ledger = Ledger::new(capacity);
        for step in &steps {
            ledger.apply(step);
            ledger.check_conservation();
        }
    }
}
