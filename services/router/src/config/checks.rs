//! What must hold of a configuration before anything is loaded or bound.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kr_boot::config::{Problem, Validate};

use super::{
    BatchConfig, Config, DrainConfig, GrpcConfig, LimitsConfig, ModelConfig, ModelWorkers, QueueConfig, WorkerSettings,
};
use crate::policy::PolicyKind;
use crate::workers::Address;

impl Validate for Config {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.models.is_empty() {
            let cure = "give --model DIR or a [[models]] table with a path";
            problems.push(Problem::without_value("models", "no model to serve", cure));
        }
        for (index, model) in self.models.iter().enumerate() {
            let of_model = model.validate().into_iter();
            problems.extend(of_model.map(|problem| problem.under(&format!("models.{index}"))));
        }
        problems.extend(names(&self.models));
        problems.extend(addresses(self));
        if self.placement.parse::<PolicyKind>().is_err() {
            let cure = format!("set it to one of {}", PolicyKind::names());
            problems.push(Problem::new(
                "placement",
                format!("{:?}", self.placement),
                "unknown policy",
                cure,
            ));
        }
        let sections = [
            ("grpc", self.grpc.validate()),
            ("queue", self.queue.validate()),
            ("batch", self.batch.validate()),
            ("limits", self.limits.validate()),
            ("worker", self.worker.validate()),
            ("drain", self.drain.validate()),
            ("telemetry", self.telemetry.validate()),
        ];
        for (section, found) in sections {
            problems.extend(found.into_iter().map(|problem| problem.under(section)));
        }
        problems.extend(at_least_one(&[("http.max_connections", self.http.max_connections)]));
        if let Some(path) = &self.auth.api_keys_file
            && !path.is_file()
        {
            let cure = "name a file of ID:SHA256 lines";
            problems.push(Problem::new("auth.api_keys_file", shown(path), "no such file", cure));
        }
        if let Some(path) = &self.address_file
            && !path
                .parent()
                .is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir())
        {
            let cure = "name a file in a folder that exists";
            problems.push(Problem::new(
                "address_file",
                shown(path),
                "its folder does not exist",
                cure,
            ));
        }
        problems
    }
}

impl Validate for ModelConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let folder = self.folder();
        if self.path.as_os_str().is_empty() {
            problems.push(Problem::without_value(
                "path",
                "missing",
                "set it to the model's folder",
            ));
        } else if !folder.is_dir() {
            let message = format!("no folder {}", folder.display());
            let cure = "correct it, or import the model first: `kr model pull`";
            problems.push(Problem::new("path", shown(&self.path), message, cure));
        } else if !folder.join("tokenizer.json").is_file() {
            let message = format!("no tokenizer.json in {}", folder.display());
            problems.push(Problem::new(
                "path",
                shown(&self.path),
                message,
                "name a model's folder",
            ));
        }
        for (index, workers) in self.workers.iter().enumerate() {
            let of_workers = workers.validate().into_iter();
            problems.extend(of_workers.map(|problem| problem.under(&format!("workers.{index}"))));
        }
        problems
    }
}

impl Validate for ModelWorkers {
    fn validate(&self) -> Vec<Problem> {
        let settings = self.settings.validate().into_iter();
        let settings = settings.map(|problem| problem.under("settings"));
        settings.chain(self.origin_problems()).collect()
    }
}

impl ModelWorkers {
    fn origin_problems(&self) -> Vec<Problem> {
        match (self.spawn, &self.address) {
            (None, Some(_)) if self.settings != WorkerSettings::default() => {
                let message = "settings are for workers that this router starts";
                let cure = "configure that worker where it runs, or set spawn instead of address";
                vec![Problem::without_value("settings", message, cure)]
            }
            (Some(1..=MAX_SPAWN), None) => Vec::new(),
            (Some(count), None) => {
                let message = format!("expected 1 to {MAX_SPAWN}");
                vec![Problem::new("spawn", count, message, "set it to 1")]
            }
            (None, Some(address)) => match address.parse::<Address>() {
                Ok(_) => Vec::new(),
                Err(error) => {
                    let cure = "write unix:PATH or tcp://HOST:PORT";
                    vec![Problem::new("address", format!("{address:?}"), error.to_string(), cure)]
                }
            },
            (Some(_), Some(_)) | (None, None) => {
                let message = "expected either spawn or address";
                let cure = "set spawn = N to start workers here, or address = \"…\" to use one that runs";
                vec![Problem::without_value("spawn", message, cure)]
            }
        }
    }
}

/// Workers of one model on one machine; more is a slip of the finger.
const MAX_SPAWN: u32 = 64;

/// Names and aliases of all models must differ.
fn names(models: &[ModelConfig]) -> Vec<Problem> {
    let mut owners: HashMap<String, usize> = HashMap::new();
    let mut problems = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let own = (format!("models.{index}.name"), model.served_name());
        let aliases = model.aliases.iter().enumerate();
        let aliases = aliases.map(|(number, alias)| (format!("models.{index}.aliases.{number}"), alias.clone()));
        for (key, name) in std::iter::once(own).chain(aliases) {
            if name.is_empty() || name.len() > 128 {
                problems.push(Problem::new(
                    key,
                    format!("{name:?}"),
                    "no usable name",
                    "set a name of 1 to 128 bytes",
                ));
            } else if let Some(owner) = owners.insert(name.clone(), index) {
                let message = format!("also a name of models.{owner}");
                problems.push(Problem::new(key, format!("{name:?}"), message, "choose another name"));
            }
        }
    }
    problems
}

/// Addresses that others can reach must be meant.
fn addresses(config: &Config) -> Vec<Problem> {
    let exposed = |address: SocketAddr| !address.ip().is_loopback() && !config.insecure;
    let ports = [
        ("grpc.address", config.grpc.address),
        ("http.address", config.http.address),
    ];
    let found = ports.into_iter().filter(|(_, address)| exposed(*address));
    let exposed = found.map(|(key, address)| {
        let message = "other machines could reach this unencrypted";
        let cure = "use 127.0.0.1, or accept it with --insecure (insecure = true)";
        Problem::new(key, format!("\"{address}\""), message, cure)
    });
    let mut problems: Vec<Problem> = exposed.collect();
    if config.grpc.address == config.http.address && config.http.address.port() != 0 {
        let address = format!("\"{}\"", config.http.address);
        problems.push(Problem::new(
            "http.address",
            address,
            "also grpc.address",
            "choose another port",
        ));
    }
    problems
}

impl Validate for GrpcConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = at_least_one(&[
            ("max_concurrent_streams", self.max_concurrent_streams as usize),
            ("max_connections", self.max_connections),
        ]);
        problems.extend(more_than_nothing(&[
            ("handshake_timeout", self.handshake_timeout),
            ("keepalive_interval", self.keepalive_interval),
            ("keepalive_timeout", self.keepalive_timeout),
        ]));
        problems
    }
}

impl Validate for QueueConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = at_least_one(&[
            ("capacity", self.capacity),
            ("capacity_per_tenant", self.capacity_per_tenant.unwrap_or(1)),
            ("turn_tokens", self.turn_tokens as usize),
        ]);
        problems.extend(more_than_nothing(&[
            ("max_wait", self.max_wait),
            ("ageing", self.ageing),
        ]));
        problems
    }
}

impl Validate for BatchConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = at_least_one(&[("min_sequences", self.min_sequences as usize)]);
        if !(self.min_sequences..=MAX_SEQUENCES).contains(&self.max_sequences) {
            let message = format!("expected min_sequences to {MAX_SEQUENCES}");
            let cure = format!("set it to {} or more", self.min_sequences);
            problems.push(Problem::new("max_sequences", self.max_sequences, message, cure));
        }
        problems.extend(at_most_a_year(&[("token_time", self.token_time), ("hold", self.hold)]));
        problems
    }
}

/// Sequences of one worker; more is a slip of the finger.
const MAX_SEQUENCES: u32 = 4096;

impl Validate for LimitsConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = at_least_one(&[
            ("max_message_bytes", self.max_message_bytes),
            ("default_max_tokens", self.default_max_tokens as usize),
            ("max_in_flight", self.max_in_flight),
            ("max_in_flight_per_tenant", self.max_in_flight_per_tenant),
            ("max_choices", self.max_choices as usize),
        ]);
        if self.max_choices as usize > self.max_in_flight_per_tenant {
            let most = self.max_in_flight_per_tenant;
            let message = format!("over max_in_flight_per_tenant ({most}), where each answer counts");
            let cure = format!("set it to {most} or less");
            problems.push(Problem::new("max_choices", self.max_choices, message, cure));
        }
        problems
    }
}

impl Validate for DrainConfig {
    fn validate(&self) -> Vec<Problem> {
        let mut problems = more_than_nothing(&[("timeout", self.timeout)]);
        problems.extend(at_most_a_year(&[("delay", self.delay)]));
        problems
    }
}

pub(super) fn at_least_one(values: &[(&str, usize)]) -> Vec<Problem> {
    let zero = values.iter().filter(|(_, value)| *value == 0);
    zero.map(|(key, value)| Problem::new(*key, value, "expected 1 or more", "set it to 1 or more"))
        .collect()
}

pub(super) fn more_than_nothing(values: &[(&str, Duration)]) -> Vec<Problem> {
    let zero = values.iter().filter(|(_, value)| value.is_zero());
    zero.map(|(key, _)| Problem::new(*key, "\"0s\"", "expected more than nothing", "set it to a few seconds"))
        .chain(at_most_a_year(values))
        .collect()
}

/// Longer ones are mistakes, and a moment that far ahead might not be representable.
fn at_most_a_year(values: &[(&str, Duration)]) -> Vec<Problem> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let long = values.iter().filter(|(_, value)| *value > YEAR);
    long.map(|(key, value)| {
        let value = format!("\"{}h\"", value.as_secs() / 3600);
        Problem::new(*key, value, "expected at most a year", "set it to at most 8760h")
    })
    .collect()
}

pub(super) fn shown(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
