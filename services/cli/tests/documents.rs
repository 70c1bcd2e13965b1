//! The commands of README.md and the guides: what stands in a `sh` block runs. Lines of kr-router, `kr config` and grpcurl are run by
//! the integration tests, which have those programs. Of what needs a real model, or measures, the flags are checked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fake_hub::FakeHub;
use crate::fake_server::FakeServer;
use crate::program::{Home, run};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// The lines of all `sh` blocks, continued ones joined, without comments and the folder of our programs.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let blocks = text
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let lines = blocks
        .flat_map(str::lines)
        .map(|line| line.split("  #").next().unwrap());
    let lines = lines.map(|line| line.trim().replace("target/release/", ""));
    lines.filter(|line| !line.is_empty()).collect()
}

/// Guides, each with the fewest commands it has.
const GUIDES: [(&str, usize); 5] = [
    ("README.md", 12),
    ("docs/getting-started.md", 8),
    ("docs/models.md", 5),
    ("docs/cli.md", 12),
    ("docs/benchmarks.md", 6),
];

/// A home as a reader has it at that point: demo models, a prompt in a file.
fn home_of_a_reader() -> Home {
    let home = Home::new();
    for name in ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-4bit"] {
        let folder = home.path().join(".cache/kr-serve-mlx/models").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
    }
    fs::write(home.path().join("prompt.txt"), "hello").unwrap();
    home
}

#[tokio::test]
async fn every_command_of_the_guides_runs() {
    let (server, hub) = (FakeServer::start().await, FakeHub::start().await);
    let kr = Path::new(env!("CARGO_BIN_EXE_kr")).parent().unwrap();
    let path = format!("{}:{}", kr.display(), env!("PATH"));
    for (name, fewest) in GUIDES {
        let (home, text) = (home_of_a_reader(), document(name));
        let commands = commands(&text);
        assert!(commands.len() >= fewest, "{name} has lost its commands");
        for line in commands {
            let line = &line.replace("http://127.0.0.1:50051", server.address());
            let program = line.split(' ').next().unwrap();
            let mut command = home.command("sh");
            command.current_dir(home.path());
            match program {
                "make" => command
                    .current_dir(workspace())
                    .arg("-c")
                    .arg(line.replacen("make", "make -n", 1)),
                "kr-router" | "grpcurl" | "cargo" => continue,
                "kr" if line.starts_with("kr config") => continue,
                // They need a model; clap looks at all that stands before the last flag.
                "kr" if line.starts_with("kr model i") => command.arg("-c").arg(format!("{line} --help")),
                "kr" | "cat" => command.arg("-c").arg(line),
                other => panic!("{name}: nobody runs {other}: {line}"),
            };
            command
                .env("PATH", &path)
                .env("KR_SERVER", server.address())
                .env("HF_ENDPOINT", &hub.endpoint);
            let ran = run(&mut command).await;
            assert_eq!(ran.code, Some(0), "{name}: {line}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn the_guide_names_every_command_and_every_chat_command() {
    let (home, server, text) = (Home::new(), FakeServer::start().await, document("docs/cli.md"));
    let folder = home.path().join("man");
    run(home.kr(&["man"]).arg(&folder)).await.success();
    for entry in fs::read_dir(&folder).unwrap() {
        let page = entry.unwrap().file_name().into_string().unwrap();
        let command = page.trim_end_matches(".1").replace('-', " ");
        let is_group = folder.join(&page).exists() && ["kr", "kr model", "kr config"].contains(&command.as_str());
        assert!(
            is_group || text.contains(&command),
            "docs/cli.md does not name {command}"
        );
    }
    let help = crate::program::run_with(&mut home.kr(&["chat", "--server", server.address()]), "/help\n")
        .await
        .stderr;
    for command in help
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.starts_with("//"))
    {
        assert!(
            text.contains(&format!("`{command}")),
            "docs/cli.md does not name {command}"
        );
    }
}
