//! What other programs read of `kr`: completions, manual pages, usage.

use crate::program::{Home, run, run_with};

#[tokio::test]
async fn completions_know_commands_and_flags() {
    let home = Home::new();
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef kr"),
        ("fish", "complete -c kr"),
    ] {
        let script = run(&mut home.kr(&["completions", shell])).await.success();
        for part in [part, "generate", "max-tokens"] {
            assert!(script.contains(part), "no {part:?} for {shell}");
        }
        if shell == "bash" {
            run_with(home.command("bash").arg("-n"), &script).await.success();
        }
    }
    let error = run(&mut home.kr(&["completions", "csh"])).await.failure(2);
    assert!(error.contains("[possible values: bash, zsh, fish]"), "{error}");
}

#[tokio::test]
async fn there_is_a_page_for_each_command() {
    let home = Home::new();
    let folder = home.path().join("man1");
    run(home.kr(&["man"]).arg(&folder)).await.success();
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(page("kr.1").contains("Exit codes: 0 done"));
    for command in [
        "generate",
        "chat",
        "bench",
        "model-pull",
        "model-import",
        "model-list",
        "config-print",
    ] {
        assert!(page(&format!("kr-{command}.1")).contains(".SH SYNOPSIS"), "{command}");
    }
}

#[tokio::test]
async fn a_mistyped_command_is_wrong_usage_and_the_right_one_is_named() {
    let home = Home::new();
    let error = run(&mut home.kr(&["genrate", "x"])).await.failure(2);
    assert!(error.contains("generate"), "{error}");
    let error = run(&mut home.kr(&["generate", "--max-token", "3"])).await.failure(2);
    assert!(error.contains("--max-tokens"), "{error}");
}

#[tokio::test]
async fn nothing_is_asked_of_a_server_without_a_prompt() {
    let error = run(&mut Home::new().kr(&["generate", "--file", "/nowhere/prompt.txt"]))
        .await
        .failure(1);
    assert_eq!(
        error,
        "kr: /nowhere/prompt.txt: No such file or directory (os error 2)\n"
    );
}
