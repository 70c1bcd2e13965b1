use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(capacity: usize) -> QueueLimits {
    QueueLimits {
        capacity,
        ageing: 10 * SECOND,
        max_wait_without_worker: 30 * SECOND,
        turn_tokens: 100,
        ..QueueLimits::default()
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
        max_tokens: 9,
        blocks: Arc::from([]),
        block_tokens: 16,
    }
}

fn of(tenant: &str, entry: Entry) -> Entry {
    Entry {
        tenant: Tenant(Arc::from(tenant)),
        ..entry
    }
}

fn pop(queue: &mut Queue, now: Instant) -> Option<u64> {
    let key = queue.head(now)?.key;
    queue.send(key).map(|entry| entry.key.0)
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
    assert_eq!(queue.push(entry(2, Priority::High, now)), Err(Full::Queue));
    queue.push_returned(entry(3, Priority::Low, now));
    assert_eq!(drained(&mut queue, now), [3, 1]);
}

#[test]
fn a_full_queue_makes_room_for_a_tenant_with_few_waiting() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(4));
    for (key, priority) in [
        (1, Priority::Normal),
        (2, Priority::Low),
        (3, Priority::Normal),
        (4, Priority::High),
    ] {
        queue.push(of("flood", entry(key, priority, now))).unwrap();
    }
    let mut displaced = |key| {
        let pushed = queue.push(of("quiet", entry(key, Priority::Low, now)));
        pushed.map(|displaced| displaced.unwrap().key.0)
    };
    assert_eq!(displaced(5), Ok(2), "the lowest class gives way first");
    assert_eq!(displaced(6), Ok(3), "then the newest");
    assert_eq!(displaced(7), Err(Full::Queue), "two of four are an equal share");
    assert_eq!((queue.len(), queue.tenants()), (4, 2));
}

#[test]
fn a_tenant_has_at_most_its_own_capacity_waiting() {
    let now = Instant::now();
    let limits = QueueLimits {
        capacity_per_tenant: 1,
        ..limits(8)
    };
    let mut queue = Queue::new(limits);
    queue.push(of("a", entry(1, Priority::Normal, now))).unwrap();
    assert_eq!(queue.push(of("a", entry(2, Priority::High, now))), Err(Full::Tenant));
    queue.push(of("b", entry(3, Priority::Normal, now))).unwrap();
    queue.remove(SequenceKey(1)).unwrap();
    queue.push(of("a", entry(4, Priority::Normal, now))).unwrap();
}

#[test]
fn a_flood_delays_another_tenant_by_one_turn_only() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(200));
    for key in 0..150 {
        queue.push(of("flood", entry(key, Priority::Normal, now))).unwrap();
    }
    // Ten tokens each, a hundred for each turn.
    (0..35).for_each(|_| assert!(pop(&mut queue, now).is_some()));
    queue.push(of("quiet", entry(500, Priority::Normal, now))).unwrap();
    let before = std::iter::from_fn(|| pop(&mut queue, now)).take_while(|key| *key != 500);
    assert_eq!(before.count(), 5, "what is left of the turn");
}

#[test]
fn a_revised_sequence_keeps_what_it_has_waited() {
    let now = Instant::now();
    let mut queue = Queue::new(limits(8));
    queue.push(entry(1, Priority::Normal, now)).unwrap();
    queue.push(entry(2, Priority::Low, now)).unwrap();
    queue.revise(SequenceKey(2), Priority::High, Some(now + SECOND));
    assert_eq!(queue.head(now).unwrap().key.0, 2);
    assert_eq!(queue.next_expiry(), Some(now + SECOND));
    queue.revise(SequenceKey(2), Priority::Low, None);
    assert_eq!(queue.head(now).unwrap().key.0, 1);
    assert_eq!(queue.next_expiry(), None);
    queue.push(entry(3, Priority::High, now + 20 * SECOND)).unwrap();
    queue.remove(SequenceKey(1)).unwrap();
    assert_eq!(
        queue.head(now + 20 * SECOND).unwrap().key.0,
        2,
        "it has aged all the while"
    );
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
fn what_has_aged_goes_before_its_own_tenants_only() {
    let start = Instant::now();
    let mut queue = Queue::new(limits(100));
    for key in 0..50 {
        queue.push(of("flood", entry(key, Priority::Normal, start))).unwrap();
    }
    let late = start + 60 * SECOND;
    queue.push(of("quiet", entry(99, Priority::Low, late))).unwrap();
    let before = std::iter::from_fn(|| pop(&mut queue, late)).take_while(|key| *key != 99);
    assert_eq!(before.count(), 10, "one turn");
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
    Push {
        tenant: u8,
        priority: u8,
        tokens: u8,
        patience_s: Option<u8>,
    },
    Dispatch,
    Return,
    Abandon(u8),
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8, any::<u8>(), proptest::option::of(0..20_u8))
            .prop_map(|(tenant, priority, tokens, patience_s)| Step::Push { tenant, priority, tokens, patience_s }),
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
    displaced: usize,
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
            displaced: 0,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { .. } => self.push(step),
            Step::Dispatch => {
                if let Some(head) = self.queue.head(self.now).cloned() {
                    assert_eq!(self.queue.head(self.now), Some(&head), "asking changes nothing");
                    self.check_order(&head);
                    self.forget(head.key);
                    self.dispatched.push(self.queue.send(head.key).unwrap());
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

    fn push(&mut self, step: &Step) {
        let Step::Push {
            tenant,
            priority,
            tokens,
            patience_s,
        } = *step
        else {
            return;
        };
        let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(priority)];
        let entry = Entry {
            deadline: patience_s.map(|seconds| self.now + u32::from(seconds) * SECOND),
            max_tokens: tokens.into(),
            ..of(&tenant.to_string(), entry(self.accepted, priority, self.now))
        };
        let full = self.queue.len() >= self.queue.limits().capacity;
        let fewer = self.waiting_of(&entry.tenant);
        match self.queue.push(entry.clone()) {
            Ok(None) => assert!(!full),
            Ok(Some(displaced)) => {
                assert!(
                    full && self.waiting_of(&displaced.tenant) > fewer,
                    "{displaced:?} had no more"
                );
                self.forget(displaced.key);
                self.displaced += 1;
            }
            Err(refused) => {
                assert!(full && refused == Full::Queue);
                return;
            }
        }
        self.waiting.push(entry);
        self.accepted += 1;
    }

    fn waiting_of(&self, tenant: &Tenant) -> usize {
        self.queue.tenants.get(tenant).map_or(0, Lines::len)
    }

    fn forget(&mut self, key: SequenceKey) {
        let before = self.waiting.len();
        self.waiting.retain(|entry| entry.key != key);
        assert_eq!(self.waiting.len() + 1, before);
    }

    /// Nobody of the same tenant and a higher class, or the same and earlier, may be passed over, returned ones apart.
    fn check_order(&self, head: &Entry) {
        let (lane, _) = self.queue.entries[&head.key].0;
        let Lane::Waiting(class) = lane else { return };
        for other in self.waiting.iter().filter(|other| other.tenant == head.tenant) {
            let aged = self.now.saturating_duration_since(other.since).as_secs() / 10;
            let other_class = (other.priority as u64 + aged).min(2);
            assert!(
                other_class <= class as u64,
                "{other:?} is of a higher class than {head:?}"
            );
            assert!(
                other_class < class as u64 || other.key >= head.key,
                "{head:?} goes before {other:?}"
            );
        }
    }

    fn check_conservation(&self) {
        let ended = self.expired + self.abandoned + self.displaced;
        let known = self.dispatched.len() + ended + self.queue.len();
        assert_eq!(usize::try_from(self.accepted).unwrap(), known);
        assert_eq!(self.waiting.len(), self.queue.len());
        let waiting: usize = self.queue.tenants.values().map(Lines::len).sum();
        assert_eq!(waiting + self.queue.returned.len(), self.queue.len());
        assert!(waiting <= self.queue.limits().capacity);
        let lanes = self.queue.entries.values().map(|((lane, _), _)| *lane);
        let rising = lanes.filter(|lane| matches!(lane, Lane::Waiting(Priority::Low | Priority::Normal)));
        assert_eq!(self.queue.promotions.len(), rising.count());
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

proptest! {
    #[test]
    fn no_tenant_waits_for_more_than_its_turns_whatever_others_send(
        others in proptest::collection::vec((1..300_u32, 0..3_usize), 1..5),
        own in 1..1000_u32,
    ) {
        let start = Instant::now();
        let mut queue = Queue::new(limits(100_000));
        queue.push(of("last", Entry { max_tokens: own, ..entry(0, Priority::Low, start) })).unwrap();
        let mut key = 1;
        let mut sent = vec![0_u64; others.len()];
        // Everybody else always has something waiting, of the highest priority.
        loop {
            for (number, (tokens, ahead)) in others.iter().enumerate() {
                while queue.tenants.get(&Tenant(Arc::from(number.to_string()))).map_or(0, Lines::len) <= *ahead {
                    let flood = Entry { max_tokens: *tokens, ..entry(key, Priority::High, start) };
                    queue.push(of(&number.to_string(), flood)).unwrap();
                    key += 1;
                }
            }
            let head = queue.head(start).unwrap().clone();
            queue.send(head.key).unwrap();
            if head.key.0 == 0 {
                break;
            }
            sent[head.tenant.0.parse::<usize>().unwrap()] += head.cost();
        }
        let turn = queue.limits().turn_tokens;
        let turns = u64::from(own + 1).div_ceil(turn);
        for (sent, (tokens, _)) in sent.iter().zip(&others) {
            let bound = (turns + 1) * turn + u64::from(tokens + 1);
            prop_assert!(*sent <= bound, "{sent} tokens of another tenant came first, the bound is {bound}");
        }
    }
}
