//! Threads that share one piece of work at a time.
//!
//! The caller works too and never waits for a thread that has not begun: a sleeping or preempted one costs nothing but its help.
//! Threads look out for work for a moment before they sleep, because a step of a model is hundreds of short pieces in a row.
#![expect(
    unsafe_code,
    reason = "threads borrow the caller's closure while the caller waits for them"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::profile::{Part, measure};

/// Looks at the work counter without giving way, before giving way between looks.
const BUSY_LOOKS: u32 = 4000;
/// Looks in all before a thread sleeps: some 200 µs on an idle processor.
const LOOKS: u32 = 5000;

type Work = dyn Fn(usize) + Sync;

/// A number of threads, the caller's included. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    /// One caller at a time.
    turn: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

struct Shared {
    /// Odd while there is work.
    epoch: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// The next task to take.
    next: AtomicUsize,
    /// Threads that may be looking at `job`.
    inside: AtomicUsize,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const Work,
    tasks: usize,
}

// SAFETY: `job` is written by the caller whose turn it is while `epoch` is even and nobody is inside, and read by threads that are
// inside while it is odd; the closure behind it is `Sync` and outlives the odd epoch, see `run`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            let name = format!("kernel-{index}");
            // Without the thread its share of the work is the others'.
            thread::Builder::new().name(name).spawn(move || shared.serve()).ok()
        };
        let threads = (1..threads).filter_map(spawn).collect();
        Self {
            shared,
            turn: Mutex::new(()),
            threads,
        }
    }

    /// Returns how many threads work, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work` once with every number below `tasks`, on any thread, and returns when all calls have.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || tasks <= 1 {
            (0..tasks).for_each(work);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.shared;
        // SAFETY: forgets the closure's lifetime: nobody is inside after this function, which `Close` sees to.
        let work: *const Work = unsafe { std::mem::transmute(std::ptr::from_ref(work)) };
        let job = Job { work, tasks };
        // SAFETY: it is our turn, the epoch is even and nobody is inside.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, SeqCst);
        shared.epoch.fetch_add(1, SeqCst);
        let _close = Close(shared);
        if shared.sleeping.load(SeqCst) > 0 {
            let _lock = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.take_tasks(job);
    }
}

/// Ends an epoch, also when a task panics: no new thread comes in, and those inside are waited for.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.epoch.fetch_add(1, SeqCst);
        let _measure = measure(Part::PoolWait);
        let mut looks = 0;
        while self.0.inside.load(SeqCst) > 0 {
            pause(looks);
            looks += 1;
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut done = 0;
        while let Some(epoch) = self.next_epoch(done) {
            self.inside.fetch_add(1, SeqCst);
            // Only an epoch that is open after we came in cannot end before we leave.
            if is_open(self.epoch.load(SeqCst)) {
                // SAFETY: the epoch is open and we are inside.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take_tasks(job);
                }
            }
            self.inside.fetch_sub(1, SeqCst);
            done = epoch;
        }
    }

    fn take_tasks(&self, job: Job) {
        // SAFETY: the caller of `run` waits for everybody inside before the closure ends.
        let work = unsafe { &*job.work };
        loop {
            let task = self.next.fetch_add(1, SeqCst);
            if task >= job.tasks {
                return;
            }
            work(task);
        }
    }

    /// Waits for an open epoch after `done`; `None` is the end.
    fn next_epoch(&self, done: u64) -> Option<u64> {
        let news = || {
            let epoch = self.epoch.load(SeqCst);
            (is_open(epoch) && epoch != done).then_some(epoch)
        };
        for looks in 0..LOOKS {
            if let Some(epoch) = news() {
                return Some(epoch);
            }
            pause(looks);
        }
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        let epoch = loop {
            if self.stop.load(SeqCst) {
                break None;
            }
            if let Some(epoch) = news() {
                break Some(epoch);
            }
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, SeqCst);
        epoch
    }
}

fn is_open(epoch: u64) -> bool {
    !epoch.is_multiple_of(2)
}

fn pause(looks: u32) {
    if looks < BUSY_LOOKS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _lock = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.stop.store(true, SeqCst);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A thread ends by panic only if a task did, which `run`'s caller has seen.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 500] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task| {
                    counts[task].fetch_add(1, SeqCst);
                });
                assert!(
                    counts.iter().all(|count| count.load(SeqCst) == 1),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn many_short_runs_see_their_own_closure() {
        let pool = Pool::new(3);
        for round in 0..2_000_usize {
            let sum = AtomicUsize::new(0);
            pool.run(4, &|task| {
                sum.fetch_add(round * 4 + task, SeqCst);
            });
            assert_eq!(sum.load(SeqCst), round * 16 + 6);
        }
    }

    #[test]
    fn threads_work_beside_the_caller() {
        let pool = Pool::new(2);
        let seen = Mutex::new(std::collections::HashSet::new());
        // Two tasks that wait for each other: only two threads can finish them.
        let arrived = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            seen.lock().unwrap().insert(thread::current().id());
            arrived.wait();
        });
        assert_eq!(seen.lock().unwrap().len(), 2);
    }
}
