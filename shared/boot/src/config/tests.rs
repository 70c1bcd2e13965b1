use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Service {
    queue: Queue,
    models: Vec<Model>,
    listen: Option<String>,
    insecure: bool,
    token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Queue {
    capacity: u32,
    share: f64,
    #[serde(with = "duration")]
    timeout: Duration,
    policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Policy {
    LeastLoad,
    Prefix,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: String,
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    workers: u16,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            capacity: 512,
            share: 0.5,
            timeout: Duration::from_secs(30),
            policy: Policy::LeastLoad,
        }
    }
}

impl Validate for Service {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.queue.capacity == 0 {
            problems.push(Problem::new("capacity", 0, "expected 1 or more", "set it to 512").under("queue"));
        }
        if self.models.is_empty() {
            problems.push(Problem::without_value("models", "no model to serve", "add [[models]]"));
        }
        problems
    }
}

/// One attempt to load: a file's text, variables, flags.
#[derive(Default)]
struct Attempt<'a> {
    file: &'a str,
    environment: &'a [(&'a str, &'a str)],
    flags: Flags,
}

const MODEL: &str = "[[models]]\nname = \"a\"\n";

impl Attempt<'_> {
    fn load(self) -> Result<Loaded<Service>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kr.toml");
        std::fs::write(&path, self.file).unwrap();
        load(Sources {
            file: Some(&path),
            environment: self.environment.iter().copied().collect(),
            env_prefix: "KR_ROUTER__",
            flags: self.flags,
        })
    }

    /// The problems as the user reads them, with the temporary folder cut off.
    fn problems(self) -> Vec<String> {
        let Err(Error::Invalid(mut problems)) = self.load() else {
            panic!("accepted")
        };
        for problem in &mut problems {
            if let Origin::File { path, .. } = &mut problem.origin {
                *path = path.file_name().unwrap().into();
            }
        }
        problems.iter().map(ToString::to_string).collect()
    }
}

fn origin_text(loaded: &Loaded<Service>, key: &str) -> String {
    loaded.origin(key).to_string().rsplit('/').next().unwrap().to_owned()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let loaded = Attempt {
        file: "listen = \"file\"\n[queue]\ncapacity = 1\nshare = 0.25\n[[models]]\nname = \"a\"\n",
        environment: &[
            ("KR_ROUTER__QUEUE__CAPACITY", "2"),
            ("KR_ROUTER__LISTEN", "env"),
            ("OTHER__LISTEN", "no"),
        ],
        flags: Flags::default().set("queue.capacity", "--queue-capacity", Some(3)).set(
            "listen",
            "--listen",
            None::<&str>,
        ),
    }
    .load()
    .unwrap();
    assert_eq!(
        loaded.value.queue,
        Queue {
            capacity: 3,
            share: 0.25,
            ..Queue::default()
        }
    );
    assert_eq!(loaded.value.listen.as_deref(), Some("env"));
    let origins = [
        "queue.capacity",
        "listen",
        "queue.share",
        "queue.timeout",
        "models.0.name",
    ];
    assert_eq!(
        origins.map(|key| origin_text(&loaded, key)),
        [
            "--queue-capacity",
            "KR_ROUTER__LISTEN",
            "kr.toml:4",
            "default",
            "kr.toml:6"
        ]
    );
}

#[test]
fn text_of_the_environment_becomes_what_the_setting_is() {
    let loaded = Attempt {
        environment: &[
            ("KR_ROUTER__QUEUE__SHARE", "1"),
            ("KR_ROUTER__QUEUE__TIMEOUT", "250ms"),
            ("KR_ROUTER__QUEUE__POLICY", "prefix"),
            ("KR_ROUTER__INSECURE", "true"),
            ("KR_ROUTER__LISTEN", "8080"),
            ("KR_ROUTER__MODELS", "[{ name = \"007\", workers = 2 }]"),
        ],
        ..Attempt::default()
    }
    .load()
    .unwrap();
    let Service {
        queue,
        models,
        listen,
        insecure,
        ..
    } = loaded.value.clone();
    assert_eq!(
        (queue.share, queue.timeout, queue.policy),
        (1.0, Duration::from_millis(250), Policy::Prefix)
    );
    assert_eq!((listen.as_deref(), insecure), (Some("8080"), true));
    assert_eq!(
        models,
        [Model {
            name: "007".to_owned(),
            path: PathBuf::new(),
            workers: 2
        }]
    );
    assert_eq!(origin_text(&loaded, "models.0.workers"), "KR_ROUTER__MODELS");
}

#[test]
fn an_inline_table_of_the_environment_leaves_its_neighbours_alone() {
    let loaded = Attempt {
        file: &format!("[queue]\nshare = 0.1\n{MODEL}"),
        environment: &[("KR_ROUTER__QUEUE", "{ capacity = 9 }")],
        ..Attempt::default()
    }
    .load()
    .unwrap();
    assert_eq!((loaded.value.queue.capacity, loaded.value.queue.share), (9, 0.1));
    assert_eq!(origin_text(&loaded, "queue.share"), "kr.toml:2");
    assert_eq!(origin_text(&loaded, "queue.capacity"), "KR_ROUTER__QUEUE");
}

#[test]
fn all_problems_of_all_sources_are_reported_together() {
    let problems = Attempt {
        file: "listne = \"x\"\n[queue]\nshare = \"much\"\npolicy = \"prefx\"\n[[models]]\nname = \"a\"\nworkers = -1\n",
        environment: &[
            ("KR_ROUTER__QUEUE__CAPACITY", "x"),
            ("KR_ROUTER__QUEU__TIMEOUT", "1s"),
            ("KR_ROUTER__QUEUE____SHARE", "1"),
        ],
        flags: Flags::default().set("queue.timeout", "--queue-timeout", Some(5)),
    }
    .problems();
    let mut expected = vec![
        "queue..share (from KR_ROUTER__QUEUE____SHARE): malformed variable name; write KR_ROUTER__SECTION__KEY, with two underscores between levels",
        "listne (from kr.toml:1): unknown key; did you mean listen?",
        "models.0.workers = -1 (from kr.toml:7): expected a whole number from 0 to 65535; correct it or leave it out",
        "queu (from KR_ROUTER__QUEU__TIMEOUT): unknown key; did you mean queue?",
        "queue.capacity = \"x\" (from KR_ROUTER__QUEUE__CAPACITY): expected a whole number from 0 to 4294967295; set it to something like 512 (the default)",
        "queue.policy = \"prefx\" (from kr.toml:4): expected one of least_load, prefix; did you mean \"prefix\"?",
        "queue.share = \"much\" (from kr.toml:3): expected a number; set it to something like 0.5 (the default)",
        "queue.timeout = 5 (from --queue-timeout): expected a duration such as \"250ms\", \"2.5s\", \"1m30s\" or \"1h\"; set it to something like \"30s\" (the default)",
    ];
    expected.sort_unstable();
    let mut problems = problems;
    problems.sort_unstable();
    assert_eq!(problems, expected);
}

#[test]
fn problems_in_several_elements_of_an_array_keep_their_own_index() {
    let mut file = String::new();
    for (name, workers) in [("1", "1"), ("\"b\"", "70000"), ("\"c\"", "3"), ("4", "\"x\"")] {
        write!(file, "[[models]]\nname = {name}\nworkers = {workers}\n").unwrap();
    }
    file += "[[models]]\nworkers = 1\n";
    let problems = Attempt {
        file: &file,
        ..Attempt::default()
    }
    .problems();
    let keys: Vec<&str> = problems
        .iter()
        .map(|problem| problem.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "models.0.name = 1 (from kr.toml:2)",
            "models.1.workers = 70000 (from kr.toml:6)",
            "models.3.name = 4 (from kr.toml:11)",
            "models.3.workers = \"x\" (from kr.toml:12)",
            "models.4.name (from kr.toml:13)",
        ]
    );
}

#[test]
fn checks_run_beside_type_errors_but_not_on_what_they_touch() {
    let problems = Attempt {
        file: "[queue]\ncapacity = 0\n[[models]]\nname = 1\n",
        environment: &[("KR_ROUTER__QUEUE__SHARE", "x")],
        ..Attempt::default()
    }
    .problems();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert_eq!(
        problems[2],
        "queue.capacity = 0 (from kr.toml:2): expected 1 or more; set it to 512"
    );
    assert!(!problems.iter().any(|problem| problem.contains("no model to serve")));
}

#[test]
fn unknown_keys_without_a_neighbour_list_what_is_known() {
    let problems = Attempt {
        file: &format!("zzz = 1\n{MODEL}"),
        ..Attempt::default()
    }
    .problems();
    assert_eq!(
        problems,
        ["zzz (from kr.toml:1): unknown key; remove it; known here: queue, models, listen, insecure, token"]
    );
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    let problems = Attempt {
        file: "listen = \"a\"\n\nqueue = [\n",
        ..Attempt::default()
    }
    .problems();
    assert!(
        problems[0].starts_with("kr.toml:3: not TOML: ") || problems[0].starts_with("kr.toml:4: not TOML: "),
        "{problems:?}"
    );
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let missing = PathBuf::from("/nowhere/kr.toml");
    let error = load::<Service>(Sources {
        file: Some(&missing),
        ..Sources::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("/nowhere/kr.toml") && std::error::Error::source(&error).is_some());
}

#[test]
fn printed_settings_are_toml_with_origins() {
    let loaded = Attempt {
        file: MODEL,
        environment: &[("KR_ROUTER__QUEUE__SHARE", "1")],
        ..Attempt::default()
    }
    .load()
    .unwrap();
    assert_eq!(
        loaded.render(),
        "insecure = false\n# listen is not set\nqueue.capacity = 512\nqueue.policy = \"least_load\"\nqueue.share = 1.0\n\
         queue.timeout = \"30s\"\n# token is not set\n\n[[models]]\nname = \"a\"\npath = \"\"\nworkers = 0\n"
    );
    let read_back: toml::Table = loaded.render_with_origins().parse().unwrap();
    assert_eq!(read_back["models"][0]["name"].as_str(), Some("a"));
    let printed = loaded.render_with_origins();
    assert!(printed.contains("queue.capacity = 512  # default\n"), "{printed}");
    assert!(
        printed.contains("queue.share = 1.0  # KR_ROUTER__QUEUE__SHARE\n"),
        "{printed}"
    );
}

#[test]
fn secrets_come_from_the_environment_and_are_never_shown() {
    let environment: &[_] = &[("KR_ROUTER__TOKEN", "12345")];
    let loaded = Attempt {
        file: MODEL,
        environment,
        ..Attempt::default()
    }
    .load()
    .unwrap();
    assert_eq!(loaded.value.token.as_ref().map(Secret::expose), Some("12345"));
    let shown = format!("{:?}{}{}", loaded.value, loaded.render(), loaded.render_with_origins());
    assert!(
        !shown.contains("12345") && shown.contains("token = \"<redacted>\"  # KR_ROUTER__TOKEN"),
        "{shown}"
    );
}

#[test]
fn secrets_in_files_and_flags_are_refused_without_showing_them() {
    let in_file = Attempt {
        file: &format!("token = \"hush\"\n{MODEL}"),
        ..Attempt::default()
    }
    .problems();
    let in_flag = Flags::default().set("token", "--token", Some("hush"));
    let in_flag = Attempt {
        file: MODEL,
        flags: in_flag,
        ..Attempt::default()
    }
    .problems();
    let mistyped = Attempt {
        file: &format!("token = 4711\n{MODEL}"),
        ..Attempt::default()
    }
    .problems();
    assert!(
        in_file[0].starts_with("token (from kr.toml:1): a secret must not be given here"),
        "{in_file:?}"
    );
    assert!(
        in_flag[0].starts_with("token (from --token): a secret must not be given here"),
        "{in_flag:?}"
    );
    assert!(
        mistyped[0].starts_with("token (from kr.toml:1): expected a secret"),
        "{mistyped:?}"
    );
    let shown = [in_file, in_flag, mistyped].concat().concat();
    assert!(!shown.contains("hush") && !shown.contains("4711"), "{shown}");
}

#[test]
fn secrets_are_read_from_files_without_their_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "hush\n").unwrap();
    assert_eq!(Secret::read(&path).unwrap().expose(), "hush");
    assert!(Secret::read(&folder.path().join("none")).is_err());
}
