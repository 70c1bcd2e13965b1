//! The directory of the local workers' sockets: only its owner gets in, and it goes with the router. What a killed router
//! left behind is removed by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;

use super::Error;

const PREFIX: &str = "kr-router-";
/// `sun_path` holds this many bytes with its terminator on macOS, a few more on Linux.
const LONGEST_PATH: usize = 103;

/// A directory of mode 0700, removed on drop.
#[derive(Debug)]
pub(crate) struct SocketDir {
    path: PathBuf,
    next: AtomicU32,
}

impl SocketDir {
    /// Creates one under `root`, or under the system's directory for temporary files.
    ///
    /// # Errors
    /// [`Error::SocketDir`].
    pub(crate) fn create(root: Option<&Path>) -> Result<Arc<Self>, Error> {
        let root = root.map_or_else(std::env::temp_dir, Path::to_path_buf);
        remove_abandoned(&root);
        let path = root.join(format!("{PREFIX}{}-{:08x}", std::process::id(), tag()));
        let created = fs::DirBuilder::new().mode(0o700).create(&path);
        created.map_err(|source| Error::SocketDir {
            path: path.clone(),
            source,
        })?;
        Ok(Arc::new(Self {
            path,
            next: AtomicU32::new(0),
        }))
    }

    /// Returns a path for a worker's socket, another one each time.
    ///
    /// # Errors
    /// [`Error::SocketPathTooLong`].
    pub(super) fn socket(&self, name: &str) -> Result<PathBuf, Error> {
        let plain = name
            .chars()
            .map(|char| if char.is_ascii_alphanumeric() { char } else { '_' });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self
            .path
            .join(format!("{}-{number}.socket", plain.take(32).collect::<String>()));
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Error::SocketPathTooLong {
                path,
                limit: LONGEST_PATH,
            });
        }
        Ok(path)
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket directory not removed");
        }
    }
}

/// Tells directories of one process apart.
fn tag() -> u32 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

fn remove_abandoned(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let owner = entry.file_name().to_str().and_then(owner_of);
        if owner.is_some_and(|pid| !is_alive(pid))
            && let Err(error) = fs::remove_dir_all(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %entry.path().display(), %error, "abandoned socket directory not removed");
        }
    }
}

fn owner_of(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Pid::from_raw(pid.parse().ok()?)
}

fn is_alive(pid: Pid) -> bool {
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_gets_in_and_nothing_stays_behind() {
        let root = tempfile::tempdir().unwrap();
        let sockets = SocketDir::create(Some(root.path())).unwrap();
        let mode = fs::metadata(&sockets.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let socket = sockets.socket("org/model-0").unwrap();
        fs::write(&socket, "").unwrap();
        drop(sockets);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_router_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let abandoned = root.path().join(format!("{PREFIX}{dead}-00000000"));
        let living = root.path().join(format!("{PREFIX}{}-ffffffff", std::process::id()));
        for path in [&abandoned, &living] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("a.socket"), "").unwrap();
        }
        let _sockets = SocketDir::create(Some(root.path())).unwrap();
        assert!(!abandoned.exists());
        assert!(living.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_named() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(80));
        fs::create_dir(&deep).unwrap();
        let sockets = SocketDir::create(Some(&deep)).unwrap();
        assert!(matches!(sockets.socket("worker"), Err(Error::SocketPathTooLong { .. })));
    }
}
