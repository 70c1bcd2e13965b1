//! Rows of a step side by side on the kernels' threads.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kr_kernels::Machine;

use super::host::Scratch;

/// Where rows are worked on. Each row's result is its own: threads change nothing but time.
pub(crate) struct Rows {
    /// `None` where there are no threads but the caller's.
    machine: Option<Arc<Machine>>,
    idle: Mutex<Vec<Scratch>>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}

impl Rows {
    pub(crate) fn new(machine: Option<Arc<Machine>>) -> Self {
        Self {
            machine,
            idle: Mutex::default(),
        }
    }

    /// Calls `work` with every number below `count`; returns the results in that order.
    pub(crate) fn each<R: Send + Sync>(&self, count: usize, work: impl Fn(usize, &mut Scratch) -> R + Sync) -> Vec<R> {
        let results: Vec<OnceLock<R>> = (0..count).map(|_| OnceLock::new()).collect();
        let run = |row: usize| {
            let mut scratch = self.idle().pop().unwrap_or_default();
            // Nobody else sets it: every number is called once.
            let _ = results[row].set(work(row, &mut scratch));
            self.idle().push(scratch);
        };
        match &self.machine {
            Some(machine) => machine.pool.run(count, &run),
            None => (0..count).for_each(run),
        }
        results.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
