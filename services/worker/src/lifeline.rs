//! Ends the worker when its router is gone. The router holds the write end of a pipe and never writes; however it dies, the
//! operating system closes that end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use kr_boot::Shutdown;

/// The pipe's read end.
#[derive(Debug)]
pub(crate) struct Lifeline(File);

impl Lifeline {
    /// Opens the inherited descriptor `fd`.
    ///
    /// # Errors
    /// When it is no open pipe.
    pub(crate) fn open(fd: u32) -> std::io::Result<Self> {
        // By its path: taking over a bare descriptor number would be unsafe.
        let pipe = File::open(PathBuf::from(format!("/dev/fd/{fd}")))?;
        if !pipe.metadata()?.file_type().is_fifo() {
            return Err(std::io::Error::other("it is no pipe"));
        }
        Ok(Self(pipe))
    }

    /// Asks `shutdown` to end the process at once when the router is gone.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(crate) fn watch(mut self, shutdown: Shutdown) -> std::io::Result<()> {
        // A thread of its own, ended by the process: a runtime that is stuck must not keep it from acting.
        std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
            wait_for_end(&mut self.0);
            shutdown.request_now();
            tracing::warn!("the router is gone, exiting");
            crate::exit::abort_after_grace();
        })?;
        Ok(())
    }
}

fn wait_for_end(pipe: &mut File) {
    let mut ignored = [0; 64];
    loop {
        match pipe.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
