//! A Unix socket that only its owner can connect to, and that leaves no file behind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::Error;

/// How long a process that listens on the path may take to accept.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Binds `path`; the file of a dead process is replaced.
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(Error::Bind)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(Error::Bind)?;
    Ok((listener, file))
}

/// The socket's file. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Left behind, it is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

async fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Bind(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(Error::NotASocket),
        Ok(_) => {}
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(Error::Bind)
        }
        Ok(Err(error)) => Err(Error::Bind(error)),
        Ok(Ok(_)) | Err(_) => Err(Error::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_process_s_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_living_process_s_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        let _living = bind(&path).await.unwrap();
        assert!(matches!(bind(&path).await, Err(Error::InUse)));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).await, Err(Error::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(matches!(bind(&path).await, Err(Error::Bind(_))));
    }
}
