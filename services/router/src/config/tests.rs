use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser as _;
use kr_boot::config::Environment;

use super::*;

fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let options = Options::try_parse_from([&["kr-router"], arguments].concat()).map_err(|error| error.to_string())?;
    let environment = Environment::from_iter(variables.iter().copied());
    options
        .load(environment)
        .map(|loaded| loaded.value)
        .map_err(|error| error.to_string())
}

/// A folder that passes for a model's.
fn model_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_model_flag_is_one_model_named_by_its_folder() {
    let folder = model_folder();
    let config = load(&["--model", text(folder.path()), "--workers", "3"], &[]).unwrap();
    let [model] = config.models.as_slice() else {
        panic!("{:?}", config.models)
    };
    assert_eq!(
        model.served_name(),
        folder.path().file_name().unwrap().to_str().unwrap()
    );
    assert_eq!(
        (model.aliases.as_slice(), model.workers[0].spawn),
        (["default".to_owned()].as_slice(), Some(3))
    );
}

#[test]
fn flags_win_over_variables_and_those_over_defaults() {
    let folder = model_folder();
    let model = ["--model", text(folder.path())];
    let variables = [
        ("KR_ROUTER__QUEUE__CAPACITY", "7"),
        ("KR_ROUTER__QUEUE__MAX_WAIT", "2s"),
    ];
    let config = load(&model, &variables).unwrap();
    assert_eq!(
        (config.queue.capacity, config.queue.max_wait),
        (7, Duration::from_secs(2))
    );
    let config = load(&[model.as_slice(), &["--queue-capacity", "9"]].concat(), &variables).unwrap();
    assert_eq!(config.queue.capacity, 9);
    assert_eq!(config.limits, LimitsConfig::default());
}

#[test]
fn all_problems_are_reported_together() {
    let variables = [
        ("KR_ROUTER__QUEUE__CAPACITY", "0"),
        ("KR_ROUTER__QUEUE__CAPACITI", "1"),
        ("KR_ROUTER__LIMITS__DEFAULT_MAX_TOKENS", "many"),
        ("KR_ROUTER__PLACEMENT", "luck"),
        ("KR_ROUTER__DRAIN__TIMEOUT", "0s"),
        ("KR_ROUTER__DRAIN__DELAY", "99999999999h"),
        ("KR_ROUTER__QUEUE__MAX_WAIT", "8761h"),
    ];
    let problems = load(&["--model", "/nowhere/at/all", "--grpc", "0.0.0.0:50051"], &variables).unwrap_err();
    for named in [
        "queue.capacity",
        "capaciti",
        "limits.default_max_tokens",
        "placement",
        "drain.timeout",
        "drain.delay",
        "queue.max_wait",
        "/nowhere/at/all",
        "--insecure",
        "--grpc",
    ] {
        assert!(problems.contains(named), "{named} is not in:\n{problems}");
    }
}

#[test]
fn other_machines_are_kept_out_unless_that_is_meant() {
    let folder = model_folder();
    let exposed = ["--model", text(folder.path()), "--http", "[::]:8080"];
    assert!(load(&exposed, &[]).unwrap_err().contains("http.address"));
    assert!(load(&[exposed.as_slice(), &["--insecure"]].concat(), &[]).is_ok());
}

#[test]
fn names_must_differ() {
    let folder = model_folder();
    let path = text(folder.path());
    let models =
        format!("[{{name = \"a\", path = \"{path}\", aliases = [\"x\"]}}, {{name = \"x\", path = \"{path}\"}}]");
    let problems = load(&[], &[("KR_ROUTER__MODELS", &models)]).unwrap_err();
    assert!(problems.contains("models.1.name"), "{problems}");
}

#[test]
fn workers_are_started_or_addressed() {
    let folder = model_folder();
    let path = text(folder.path());
    let with = |workers: &str| {
        let models = format!("[{{path = \"{path}\", workers = [{workers}]}}]");
        load(&[], &[("KR_ROUTER__MODELS", &models)])
    };
    assert!(with("{spawn = 2}, {address = \"tcp://10.0.0.1:7000\"}").is_ok());
    for wrong in [
        "{}",
        "{spawn = 0}",
        "{spawn = 1, address = \"unix:/w\"}",
        "{address = \"somewhere\"}",
    ] {
        assert!(with(wrong).unwrap_err().contains("models.0.workers.0"), "{wrong}");
    }
}

#[test]
fn nothing_to_serve_is_a_problem() {
    assert!(load(&[], &[]).unwrap_err().contains("--model"));
}

#[test]
fn the_example_is_the_default_configuration_with_models() {
    let example = include_str!("../../../../deploy/router.example.toml");
    let config: Config = toml::from_str(example).unwrap();
    let names: Vec<String> = config.models.iter().map(|model| model.name.clone()).collect();
    assert_eq!(names, ["smollm2", "remote"]);
    let defaults = Config {
        models: config.models.clone(),
        ..Config::default()
    };
    assert_eq!(config, defaults, "the example shows defaults");
}

/// Returns the settings of the example with their tables, those that are commented out included.
fn settings_of(example: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut settings = BTreeSet::new();
    for line in example.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.replace(['[', ']'], "") + ".";
        } else if let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ") {
            settings.insert(format!("{table}{key}"));
        }
    }
    settings
}

/// Returns every setting of a table and of those within it.
fn settings(table: &str, value: &impl serde::Serialize) -> BTreeSet<String> {
    let value = serde_json::to_value(value).unwrap();
    let fields = value.as_object().unwrap().iter();
    let nested = fields.flat_map(|(name, value)| match value {
        serde_json::Value::Object(_) => settings(&format!("{table}{name}."), value),
        // Tables of their own.
        serde_json::Value::Array(_) if ["models", "workers"].contains(&name.as_str()) => BTreeSet::new(),
        _ => BTreeSet::from([format!("{table}{name}")]),
    });
    nested.collect()
}

#[test]
fn the_example_names_every_setting_and_no_other() {
    let mut all = settings("", &Config::default());
    all.append(&mut settings("models.", &ModelConfig::default()));
    all.append(&mut settings("models.workers.", &ModelWorkers::default()));
    let example = include_str!("../../../../deploy/router.example.toml");
    assert_eq!(settings_of(example), all);
}
