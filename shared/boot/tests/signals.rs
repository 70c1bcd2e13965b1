//! Signals of the operating system, in a process of their own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::Duration;

use kr_boot::Shutdown;

const PATIENCE: Duration = Duration::from_secs(10);

fn send(signal: &str) {
    let pid = std::process::id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_stops_now() {
    let shutdown = Shutdown::new();
    let _listener = shutdown.listen().unwrap();
    send("-TERM");
    tokio::time::timeout(PATIENCE, shutdown.draining().cancelled())
        .await
        .expect("SIGTERM did not start draining");
    assert!(!shutdown.now().is_cancelled());
    send("-INT");
    tokio::time::timeout(PATIENCE, shutdown.now().cancelled())
        .await
        .expect("a second signal did not stop at once");
}
