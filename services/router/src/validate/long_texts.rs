//! Where texts too long for the async threads are tokenized and detokenized: on blocking threads, as many at a time as there
//! are cores.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::Error;

/// Longest wait for a core.
const WAIT: Duration = Duration::from_secs(10);

/// Room for long texts.
#[derive(Debug)]
pub(super) struct LongTexts {
    cores: usize,
    room: Arc<Semaphore>,
}

impl LongTexts {
    pub(super) fn new() -> Self {
        Self::on(std::thread::available_parallelism().map_or(2, usize::from))
    }

    fn on(cores: usize) -> Self {
        Self {
            cores,
            room: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Does `work` on a thread that may be held.
    ///
    /// # Errors
    /// [`Error::ServerBusy`] when no core is free for long; else those of `work`.
    ///
    /// # Cancellation
    /// Work that has begun goes on to its end and keeps its core until then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Ok(Ok(core)) = tokio::time::timeout(WAIT, self.room.clone().acquire_owned()).await else {
            return Err(Error::ServerBusy {
                limit: self.cores,
                what: "long texts",
            });
        };
        let working = tokio::task::spawn_blocking(move || {
            let _core = core;
            work()
        });
        working.await.map_err(|error| Error::internal("tokenizing", error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_core_for_long_is_told_how_many_there_are() {
        let texts = LongTexts::on(1);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let first = texts.run(move || {
            let _ = begun.send(());
            let _ = ends.recv();
            Ok(1)
        });
        let second = async {
            begins.await.unwrap();
            let mut waiting = std::pin::pin!(texts.run(|| Ok(2)));
            assert!(futures::poll!(&mut waiting).is_pending());
            tokio::time::advance(WAIT).await;
            let refused = waiting.await;
            end.send(()).unwrap();
            refused
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap(), 1);
        assert!(matches!(second, Err(Error::ServerBusy { limit: 1, .. })), "{second:?}");
        assert_eq!(texts.run(|| Ok(3)).await.unwrap(), 3);
    }
}
