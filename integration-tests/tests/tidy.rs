//! The rules of ARCHITECTURE.md that no compiler checks.
#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use kr_integration_tests::workspace;

/// Which of our crates each of them may depend on, tests included.
const EDGES: &[(&str, &[&str])] = &[
    ("kr-proto", &[]),
    ("kr-boot", &[]),
    ("kr-contract", &[]),
    ("kr-tokenizer", &["kr-contract"]),
    ("kr-gguf", &["kr-tokenizer"]),
    ("kr-gguf-fuzz", &["kr-gguf"]),
    ("kr-kernels", &[]),
    ("kr-engine", &["kr-contract"]),
    ("kr-model", &["kr-contract", "kr-engine", "kr-kernels"]),
    ("kr-router", &["kr-boot", "kr-contract", "kr-proto", "kr-tokenizer"]),
    (
        "kr-worker",
        &["kr-boot", "kr-contract", "kr-engine", "kr-model", "kr-proto"],
    ),
    ("kr-cli", &["kr-boot", "kr-contract", "kr-gguf", "kr-proto"]),
    ("kr-integration-tests", &["kr-boot", "kr-proto"]),
    ("xtask", &[]),
];

/// Crates that only some of ours may name: MLX has one door, and what knows no wire has none to one.
const DOORS: &[(&str, &[&str])] = &[
    ("mlx-rs", &["kr-model"]),
    ("mlx-sys", &["kr-model", "kr-kernels"]),
    ("tokenizers", &["kr-tokenizer"]),
    (
        "tonic",
        &[
            "kr-proto",
            "kr-boot",
            "kr-router",
            "kr-worker",
            "kr-cli",
            "kr-integration-tests",
        ],
    ),
    (
        "tokio",
        &["kr-boot", "kr-router", "kr-worker", "kr-cli", "kr-integration-tests"],
    ),
    ("figment", &["kr-boot"]),
];

const BANNED: &[&str] = &[
    "manager",
    "managers",
    "helper",
    "helpers",
    "util",
    "utils",
    "common",
    "core",
    "processor",
    "coordinator",
    "smart",
    "v2",
];

const MAX_LINES: usize = 600;
const MAX_MODEL_LINES: usize = 700;

/// All files of ours with one of these extensions.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, extensions, found);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(workspace(), extensions, &mut found);
    assert!(!found.is_empty());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap().display().to_string()
}

/// Each crate of the workspace with the names of everything it depends on.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifests = files(&["toml"])
        .into_iter()
        .filter(|path| path.file_name().unwrap() == "Cargo.toml");
    let mut crates = BTreeMap::new();
    for path in manifests {
        let manifest: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let Some(name) = manifest.get("package").and_then(|package| package["name"].as_str()) else {
            continue;
        };
        let mut found = BTreeSet::new();
        let targets = manifest.get("target").and_then(toml::Value::as_table);
        let tables = targets
            .into_iter()
            .flat_map(|targets| targets.values().filter_map(toml::Value::as_table));
        for table in tables.chain([&manifest]) {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let names = table
                    .get(kind)
                    .and_then(toml::Value::as_table)
                    .into_iter()
                    .flat_map(|table| table.keys());
                found.extend(names.cloned());
            }
        }
        if !path.starts_with(workspace().join("patches")) {
            crates.insert(name.to_owned(), found);
        }
    }
    crates
}

#[test]
fn crates_depend_on_each_other_only_as_the_architecture_says() {
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    for (name, dependencies) in dependencies() {
        let allowed = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} is not in the table of edges"));
        for ours in dependencies.iter().filter(|dependency| dependency.starts_with("kr-")) {
            assert!(
                allowed.contains(&ours.as_str()),
                "{name} depends on {ours}, which the architecture does not allow"
            );
        }
        for (door, may) in DOORS {
            assert!(
                !dependencies.contains(*door) || may.contains(&name.as_str()),
                "{name} may not name {door}"
            );
        }
    }
}

#[test]
fn files_stay_small() {
    for path in files(&["rs", "py", "sh", "cpp", "proto"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let shown = shown(&path);
        let limit = if shown.starts_with("shared/model/src/models/") {
            MAX_MODEL_LINES
        } else {
            MAX_LINES
        };
        assert!(lines <= limit, "{shown} has {lines} lines, {limit} are enough");
    }
}

/// The words of a name in snake_case or CamelCase.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        if character.is_uppercase() || !character.is_alphanumeric() {
            words.push(String::new());
        }
        words
            .last_mut()
            .unwrap()
            .extend(character.to_lowercase().filter(|character| character.is_alphanumeric()));
    }
    words
}

/// The name a line of Rust declares, if it declares a type or module.
fn declared(line: &str) -> Option<&str> {
    let line = line
        .trim_start()
        .trim_start_matches("pub ")
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub(super) ");
    let kinds = ["struct ", "enum ", "trait ", "type ", "mod ", "union "];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(|character: char| !character.is_alphanumeric() && character != '_')
        .next()
}

#[test]
fn names_say_what_things_are() {
    assert_eq!(words("QueueManager")[1..], ["queue", "manager"]);
    assert_eq!(declared("    pub(crate) struct Slot<'a> {"), Some("Slot"));
    for path in files(&["rs", "py"]) {
        let text = fs::read_to_string(&path).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        for name in text.lines().filter_map(declared).chain([stem.as_str()]) {
            let banned = words(name).into_iter().find(|word| BANNED.contains(&word.as_str()));
            assert_eq!(banned, None, "{name} in {}", shown(&path));
        }
    }
}

#[test]
fn nothing_is_switched_off_and_left_lying() {
    let attribute = |name: &str| format!("#[{name}");
    for path in files(&["rs"]) {
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let place = format!("{}:{}", shown(&path), index + 1);
            let code = line.trim_start();
            assert!(!code.starts_with(&attribute("ignore")), "{place}: an ignored test");
            assert!(
                !code.starts_with(&attribute("should_panic")),
                "{place}: a test that expects a panic"
            );
            let comment = code.strip_prefix("// ").unwrap_or_default();
            let module = comment
                .strip_suffix(';')
                .and_then(declared)
                .filter(|_| comment.contains("mod "));
            assert_eq!(module, None, "{place}: a module commented out");
        }
    }
    let modules = files(&["rs"])
        .into_iter()
        .find(|path| path.file_name().unwrap() == "mod.rs");
    assert_eq!(modules, None, "modules are foo.rs beside foo/");
}

/// What stands between backticks or as the target of a link.
fn quoted(text: &str) -> Vec<&str> {
    let code = text.split('`').skip(1).step_by(2);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    code.chain(links).collect()
}

#[test]
fn unsafe_code_is_only_where_the_decision_says() {
    let decision = fs::read_to_string(workspace().join("docs/decisions/0001-unsafe.md")).unwrap();
    let rows: BTreeSet<_> = decision
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| quoted(line.split(" | ").next().unwrap()))
        .map(str::to_owned)
        .collect();
    let lifted = files(&["rs"]).into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).unwrap().replace([' ', '\n'], "");
        let lifts = text.contains("expect(unsafe_code,");
        let name = path.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
        (lifts && name.contains("/src/")).then_some(name)
    });
    assert_eq!(lifted.collect::<BTreeSet<_>>(), rows);
}

#[test]
fn paths_in_the_texts_exist() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "deploy/README.md",
        "dashboards/README.md",
    ] {
        let path = workspace().join(document);
        let text = fs::read_to_string(&path).unwrap();
        let local = |path: &&str| !path.contains([' ', ':', '~', '*', '$', '…']) && !path.starts_with(['/', '-', '#']);
        let looks_like_a_path = |path: &str| path.contains('/') || path.ends_with(".md") || path.ends_with(".toml");
        for named in quoted(&text)
            .into_iter()
            .filter(local)
            .filter(|path| looks_like_a_path(path))
        {
            // Made by the set-up or a build, or no path at all.
            let generated = named == ".cargo/mlx.toml" || named.starts_with("target/") || named == "kr.model/NAME";
            let found = workspace().join(named).exists() || path.parent().unwrap().join(named).exists();
            assert!(found || generated, "{document} names {named}, which does not exist");
        }
    }
}

#[test]
fn the_code_map_has_every_crate() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let manifests = files(&["toml"]).into_iter().filter(|path| path.ends_with("Cargo.toml"));
    let folders = manifests.map(|path| shown(path.parent().unwrap()));
    let ours = folders.filter(|folder| !folder.is_empty() && !folder.starts_with("patches/"));
    let missing: Vec<_> = ours.filter(|folder| !text.contains(&format!("`{folder}/`"))).collect();
    assert!(missing.is_empty(), "the code map of ARCHITECTURE.md lacks {missing:?}");
}

#[test]
fn the_way_of_a_request_names_files_of_the_router() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("## The way of one request").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let steps = section
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let mut checked = 0;
    for step in steps {
        let Some((names, _)) = step.split_once(" – ") else {
            continue;
        };
        for name in names.split('`').skip(1).step_by(2) {
            let file = workspace().join(format!("services/router/src/{name}.rs"));
            assert!(file.exists(), "{} does not exist: {step}", shown(&file));
            checked += 1;
        }
    }
    assert!(checked >= 6, "only {checked} names found");
}
