//! The last resort of a process that must end: a kernel that hangs cannot be interrupted, and must not leave an orphan.

use std::time::Duration;

/// How long the orderly way out may take once there is nothing left to finish.
pub(crate) const GRACE: Duration = Duration::from_millis(1500);

/// Aborts the process after [`GRACE`]. To be called on a thread of its own; nothing comes back where the process ends first.
#[expect(clippy::disallowed_methods, reason = "on a thread that has nothing else to do")]
pub(crate) fn abort_after_grace() {
    std::thread::sleep(GRACE);
    std::process::abort();
}
