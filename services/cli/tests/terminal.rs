//! `kr` on a terminal, which `script` of util-linux makes.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;

use crate::fake_server::{ENDLESS, FakeServer, REFUSED};
use crate::program::{Home, Ran, Running, run};

/// What the program does on a terminal, both streams together.
struct Terminal(Running);

impl Terminal {
    fn chat(home: &Home, server: &FakeServer) -> Self {
        let kr = format!("exec {} chat --server {}", env!("CARGO_BIN_EXE_kr"), server.address());
        Self(Running::start(home.command("script").args([
            "-q",
            "-e",
            "-c",
            &kr,
            "/dev/null",
        ])))
    }

    async fn type_line(&mut self, text: &str) {
        self.0.expect("> ").await;
        self.0.write(&format!("{text}\r")).await;
    }

    async fn leave(mut self) -> Ran {
        self.0.expect("> ").await;
        self.0.write("\x04").await;
        self.0.finish().await
    }
}

#[tokio::test]
async fn ctrl_c_cancels_the_answer_and_the_conversation_goes_on() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut terminal = Terminal::chat(&home, &server);
    terminal.type_line(ENDLESS).await;
    terminal.0.expect("Echo ").await;
    terminal.0.write("\x03").await;
    server.cancelled().await;
    terminal.0.expect("cut; the answer so far stays").await;
    terminal.type_line("go on").await;
    terminal.0.expect("Echo go on").await;
    terminal.leave().await.success();
    assert_eq!(server.last_chat().await.len(), 3);
}

#[tokio::test]
async fn ctrl_c_at_the_prompt_drops_what_was_typed() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut terminal = Terminal::chat(&home, &server);
    terminal.0.expect("> ").await;
    terminal.0.write("half a tho\x03").await;
    terminal.0.expect("Ctrl-D or /exit leaves").await;
    terminal.type_line("hello").await;
    terminal.0.expect("Echo hello").await;
    terminal.leave().await.success();
}

#[tokio::test]
async fn a_failed_call_is_shown_and_forgotten() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut terminal = Terminal::chat(&home, &server);
    terminal.type_line(REFUSED).await;
    terminal.0.expect("parameters.top_p").await;
    terminal.type_line("hello").await;
    terminal.0.expect("Echo hello").await;
    terminal.leave().await.success();
    assert_eq!(server.last_chat().await.len(), 1);
}

#[tokio::test]
async fn the_history_is_kept_for_the_next_time_and_for_nobody_else() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut terminal = Terminal::chat(&home, &server);
    terminal.type_line("remember me").await;
    terminal.0.expect("Echo remember me").await;
    terminal.leave().await.success();
    let file = home.path().join(".local/state/kr-serve-mlx/chat_history");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
    let mut terminal = Terminal::chat(&home, &server);
    terminal.0.expect("> ").await;
    terminal.0.write("\x1b[A\r").await;
    terminal.0.expect("Echo remember me").await;
    terminal.leave().await.success();
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let kr = format!(
        "exec {} generate hello --server {}",
        env!("CARGO_BIN_EXE_kr"),
        server.address()
    );
    for (no_color, coloured) in [("", true), ("1", false)] {
        let mut command = home.command("script");
        command
            .args(["-q", "-e", "-c", &kr, "/dev/null"])
            .env("NO_COLOR", no_color);
        let shown = run(&mut command).await.success();
        assert!(shown.contains("finish: stop"), "{shown:?}");
        assert_eq!(shown.contains("\x1b[2m"), coloured, "NO_COLOR={no_color}: {shown:?}");
    }
}
