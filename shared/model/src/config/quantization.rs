//! The `quantization` object of an MLX model's config.json: affine groups, with overrides for single layers.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ConfigFile;
use crate::error::Result;

const CURE: &str = "convert the model to MLX's affine quantisation, or use the weights that are not quantised";

/// How one layer's weights are packed: `bits` per weight, a scale and a bias for every `group_size` of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheme {
    pub(crate) group_size: u32,
    pub(crate) bits: u32,
}

/// How the weights are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// What holds for every layer that has no override.
    pub(crate) default: Scheme,
    /// By the layer's full name; `None` is a layer that is not quantised.
    pub(crate) overrides: BTreeMap<String, Option<Scheme>>,
}

impl Quantization {
    /// Returns how `layer`'s weights are packed, `None` where they are not.
    pub(crate) fn scheme(&self, layer: &str) -> Option<Scheme> {
        self.overrides.get(layer).copied().unwrap_or(Some(self.default))
    }
}

pub(super) fn read(config: &ConfigFile) -> Result<Option<Quantization>> {
    if let Some(other) = config.get("quantization_config")
        && config.get("quantization") != Some(other)
    {
        return Err(config.refuse("quantization_config", "only MLX's `quantization` is supported", CURE));
    }
    let Some(value) = config.get("quantization") else {
        return Ok(None);
    };
    let Some(fields) = value.as_object() else {
        return Err(config.refuse("quantization", "it must be an object", CURE));
    };
    let default = scheme(config, "quantization", fields)?;
    let mut overrides = BTreeMap::new();
    for (layer, value) in fields {
        let place = format!("quantization.{layer}");
        let layer_scheme = match value {
            _ if matches!(layer.as_str(), "group_size" | "bits" | "mode") => continue,
            Value::Bool(false) => None,
            Value::Bool(true) => Some(default),
            Value::Object(fields) => Some(scheme(config, &place, fields)?),
            _ => return Err(refuse(config, &place, value, "it is no override of a layer")),
        };
        overrides.insert(layer.clone(), layer_scheme);
    }
    Ok(Some(Quantization { default, overrides }))
}

fn scheme(config: &ConfigFile, place: &str, fields: &Map<String, Value>) -> Result<Scheme> {
    if let Some(mode) = fields.get("mode").filter(|mode| *mode != "affine") {
        return Err(refuse(
            config,
            &format!("{place}.mode"),
            mode,
            "only \"affine\" is supported",
        ));
    }
    let choice = |name: &str, allowed: &[u32]| {
        let value = fields.get(name).unwrap_or(&Value::Null);
        value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| {
                let problem = format!("supported are {allowed:?}");
                refuse(config, &format!("{place}.{name}"), value, &problem)
            })
    };
    Ok(Scheme {
        group_size: choice("group_size", &[32, 64, 128])?,
        bits: choice("bits", &[2, 3, 4, 5, 6, 8])?,
    })
}

fn refuse(config: &ConfigFile, field: &str, value: &Value, problem: &str) -> crate::Error {
    crate::Error::Config {
        path: config.path.clone(),
        field: field.to_owned(),
        value: value.to_string(),
        problem: problem.to_owned(),
        cure: CURE.to_owned(),
    }
}
