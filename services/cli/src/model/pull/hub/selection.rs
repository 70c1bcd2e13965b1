//! Which files of a repository make a model that can be served.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::error::Error;
use super::listing::{Entry, Listing};
use super::repository::Repository;

/// Says which tensors lie in which file, where there are several.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::HashMap<String, String>,
}

/// Chooses the files; `index` is the content of [`INDEX`] where the repository has one.
///
/// # Errors
/// Something that serving needs is missing.
pub(super) fn choose(repository: &Repository, listing: &Listing, index: Option<&[u8]>) -> Result<Vec<Entry>, Error> {
    let missing = |missing, cure| Error::NotServable {
        repository: repository.id(),
        missing,
        cure,
    };
    let cure = "choose a repository in Hugging Face's or mlx-community's layout";
    let required = |name| listing.entry(name).cloned();
    let mut chosen = vec![
        required(CONFIG).ok_or_else(|| missing(CONFIG, cure))?,
        required(TOKENIZER).ok_or_else(|| missing(TOKENIZER, cure))?,
    ];
    chosen.extend(OPTIONAL.iter().filter_map(|name| required(name)));
    match index {
        Some(index) => {
            chosen.extend(required(INDEX));
            chosen.extend(shards(repository, listing, index)?);
        }
        None => chosen.push(required(WEIGHTS).ok_or_else(|| missing(WEIGHTS, weights_cure(listing)))?),
    }
    Ok(chosen)
}

fn shards(repository: &Repository, listing: &Listing, index: &[u8]) -> Result<Vec<Entry>, Error> {
    let damaged = |problem: String| Error::Damaged {
        repository: repository.id(),
        problem,
    };
    let index: Index = serde_json::from_slice(index).map_err(|error| damaged(format!("{INDEX}: {error}")))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(damaged(format!("{INDEX} names no file")));
    }
    let entry = |name: String| match listing.entry(&name) {
        Some(entry) if name.ends_with(".safetensors") => Ok(entry.clone()),
        _ => Err(damaged(format!("{INDEX} names {name}, which is not there"))),
    };
    names.into_iter().map(entry).collect()
}

fn weights_cure(listing: &Listing) -> &'static str {
    let has = |ending: &str| listing.entries.iter().any(|entry| entry.name.ends_with(ending));
    if has(".gguf") {
        "its GGUF files can be: fetch one and use `kr model import`"
    } else {
        "choose a repository with safetensors"
    }
}

/// Returns the size of all files together.
pub(super) fn bytes(files: &[Entry]) -> u64 {
    files.iter().map(|entry| entry.size).sum()
}

#[cfg(test)]
mod tests {
    use super::super::listing::Checksum;
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let entry = |name: &&str| Entry {
            name: (*name).to_owned(),
            size: 1,
            checksum: Checksum::Sha256("0".repeat(64)),
        };
        Listing {
            commit: "c".repeat(40),
            entries: names.iter().map(entry).collect(),
        }
    }

    fn chosen(names: &[&str], index: Option<&str>) -> Result<Vec<String>, String> {
        let repository = "org/model".parse().unwrap();
        let files = choose(&repository, &listing(names), index.map(str::as_bytes));
        let names = |files: Vec<Entry>| files.into_iter().map(|entry| entry.name).collect();
        files.map(names).map_err(|error| error.to_string())
    }

    #[test]
    fn other_formats_of_the_same_weights_are_left_behind() {
        let names = [
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "model.gguf",
            "README.md",
        ];
        assert_eq!(chosen(&names, None).unwrap(), names[..3]);
    }

    #[test]
    fn shards_are_those_of_the_index() {
        let names = [
            "config.json",
            "tokenizer.json",
            INDEX,
            "a.safetensors",
            "b.safetensors",
            "consolidated.safetensors",
        ];
        let index =
            r#"{"metadata": {}, "weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;
        assert_eq!(chosen(&names, Some(index)).unwrap(), names[..5]);
        let index = r#"{"weight_map": {"x": "../../c.safetensors"}}"#;
        assert!(
            chosen(&names, Some(index))
                .unwrap_err()
                .contains("../../c.safetensors, which is not there")
        );
    }

    #[test]
    fn what_is_missing_is_named_with_a_way_out() {
        let error = chosen(&["config.json", "tokenizer.json", "model.Q4_K_M.gguf"], None).unwrap_err();
        assert!(
            error.contains("no model.safetensors") && error.contains("kr model import"),
            "{error}"
        );
        assert!(
            chosen(&["config.json"], None)
                .unwrap_err()
                .contains("no tokenizer.json")
        );
    }
}
