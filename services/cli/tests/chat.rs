//! `kr chat` with input from a pipe.

use crate::fake_server::{ENDLESS, FakeServer, REFUSED};
use crate::program::{Home, Running, run_with};

fn message(role: &str, content: &str) -> (String, String) {
    (role.into(), content.into())
}

#[tokio::test]
async fn each_line_is_a_message_and_the_conversation_grows() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut chat = home.kr(&["chat", "--system", "be brief", "--server", server.address()]);
    let stdout = run_with(&mut chat, "one\n\ntwo \\\nlines\n").await.success();
    assert_eq!(stdout, "Echo one\nEcho two \nlines\n");
    let expected = [
        message("system", "be brief"),
        message("user", "one"),
        message("assistant", "Echo one"),
        message("user", "two \nlines"),
    ];
    assert_eq!(server.last_chat().await, expected);
}

#[tokio::test]
async fn commands_change_and_save_the_conversation() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let input = "one\n/clear\n/system be loud\n/system\n\"\"\"\n/exit\nis no command here\n\"\"\"\n/save chat.json\n/save chat.json\n\
                 /help\n/nonsense\n/exit\nnever sent\n";
    let mut chat = home.kr(&["chat", "--server", server.address()]);
    let ran = run_with(chat.current_dir(home.path()), input).await;
    for part in [
        "be loud\n",
        "saved to chat.json",
        "File exists",
        "/save FILE",
        "no command /nonsense",
    ] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    ran.success();
    let expected = [
        message("system", "be loud"),
        message("user", "/exit\nis no command here"),
    ];
    assert_eq!(server.last_chat().await, expected);
    let saved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path().join("chat.json")).unwrap()).unwrap();
    assert_eq!(saved["messages"][2]["content"], "Echo /exit\nis no command here");
}

#[tokio::test]
async fn a_failed_call_fails_a_script() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut chat = home.kr(&["chat", "--server", server.address()]);
    let error = run_with(&mut chat, &format!("{REFUSED}\nnever sent\n"))
        .await
        .failure(1);
    assert!(error.contains("parameters.top_p"), "{error}");
    assert_eq!(server.last_chat().await, [message("user", REFUSED)]);
}

#[tokio::test]
async fn an_interrupt_cancels_the_answer_and_keeps_what_came() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut running = Running::start(&mut home.kr(&["chat", "--server", server.address()]));
    running.write(&format!("{ENDLESS}\n")).await;
    running.expect("Echo ").await;
    running.interrupt().await;
    server.cancelled().await;
    running.write("still there?\n").await;
    running.expect("Echo still there?\n").await;
    running.finish().await.success();
    let expected = [
        message("user", ENDLESS),
        message("assistant", "Echo "),
        message("user", "still there?"),
    ];
    assert_eq!(server.last_chat().await, expected);
}

#[tokio::test]
async fn an_interrupt_between_answers_ends_a_piped_chat() {
    let (home, server) = (Home::new(), FakeServer::start().await);
    let mut running = Running::start(&mut home.kr(&["chat", "--server", server.address()]));
    running.write("hello\n").await;
    running.expect("Echo hello\n").await;
    running.interrupt().await;
    assert_eq!(running.ended().await.code, Some(130));
}
