//! Command-line flags as a layer of configuration.

use figment::value::Value;
use serde::Serialize;

use super::layer::Layer;
use super::{Origin, Problem};

/// The flags a user gave, each with the setting it stands for.
#[derive(Debug, Default)]
pub struct Flags(Vec<Flag>);

#[derive(Debug)]
struct Flag {
    key: String,
    name: String,
    value: Result<Value, figment::Error>,
}

impl Flags {
    /// Adds the flag `name` (`--queue-capacity`) for the setting `key` (`queue.capacity`); `None` is an absent flag and
    /// changes nothing.
    #[must_use]
    pub fn set<V: Serialize>(mut self, key: &str, name: &str, value: Option<V>) -> Self {
        if let Some(value) = value {
            self.0.push(Flag {
                key: key.to_owned(),
                name: name.to_owned(),
                value: Value::serialize(value),
            });
        }
        self
    }

    pub(super) fn into_layer(self) -> (Layer, Vec<Problem>) {
        let (mut layer, mut problems) = (Layer::default(), Vec::new());
        for flag in self.0 {
            match flag.value {
                Ok(value) => layer.insert(&flag.key, value, Origin::Flag(flag.name)),
                Err(error) => {
                    let mut problem = Problem::without_value(flag.key, error.kind.to_string(), "leave the flag out");
                    problem.origin = Origin::Flag(flag.name);
                    problems.push(problem);
                }
            }
        }
        (layer, problems)
    }
}
