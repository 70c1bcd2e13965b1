//! One maker at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another worker may take to make the file.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between looks at the lock.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock `path`, which ends with the returned file or its process.
///
/// # Errors
/// When the file cannot be made, or another process holds the lock for a minute.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(PAUSE),
        }
    }
}
