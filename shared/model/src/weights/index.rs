//! Which files hold a model's weights: one, or the shards that an index lists.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::config;
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Returns the weight files of `dir`, sorted by name.
pub(super) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join(INDEX);
    if !index.is_file() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let parsed: Value = serde_json::from_slice(&config::read(&index)?).map_err(|source| Error::Json {
        path: index.clone(),
        source,
    })?;
    let broken = |problem: &str| Error::WeightFile {
        path: index.clone(),
        problem: problem.to_owned(),
    };
    let map = parsed
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| broken("it has no weight_map"))?;
    let mut shards = BTreeSet::new();
    for shard in map.values() {
        let name = shard.as_str().unwrap_or("");
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(broken("weight_map must name files of the same directory"));
        }
        shards.insert(dir.join(name));
    }
    Ok(shards.into_iter().collect())
}
