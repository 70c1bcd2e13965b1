//! Model folders in Hugging Face's or MLX's layout, imported or not.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Counterpart, Inspection, TensorSummary, TokenizerSummary, WeightFile, file_name};
use crate::error::Error;
use crate::safetensors::{StoredTensor, read_header};

pub(super) fn inspect(dir: &Path) -> Result<Inspection, Error> {
    let config = json(&dir.join("config.json"))?.unwrap_or_default();
    let record = json(&dir.join("import.json"))?.unwrap_or_default();
    let quantization = config.get("quantization").filter(|value| value.is_object());
    let counterparts = counterparts(&record);
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for path in weight_files(dir)? {
        let (bytes, stored) = read_header(&path)?;
        files.push(WeightFile {
            name: file_name(&path),
            bytes,
        });
        tensors.extend(summaries(&stored, quantization, &counterparts));
    }
    Ok(Inspection {
        format: "safetensors",
        files,
        architecture: config["architectures"][0].as_str().map(str::to_owned),
        context_tokens: config["max_position_embeddings"].as_u64(),
        tokenizer: tokenizer_summary(dir)?,
        quantization: quantization.cloned(),
        provenance: provenance(&record),
        problem: None,
        tensors,
    })
}

/// The document, `None` where there is no such file.
fn json(path: &Path) -> Result<Option<Json>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let document = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(document))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// The folder's safetensors files by name; at least one.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(failed("look into", dir))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let mut files: Vec<_> = paths.filter(is_weights).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::NotAModel { dir: dir.to_owned() });
    }
    Ok(files)
}

/// Where each tensor came from, by its name here.
fn counterparts(record: &Json) -> HashMap<String, Counterpart> {
    let tensors = record["tensors"].as_array().into_iter().flatten();
    let sides = tensors.filter_map(|tensor| {
        let counterpart = Counterpart {
            name: tensor["source"].as_str()?.to_owned(),
            type_name: tensor["source_type"].as_str()?.to_owned(),
            error: serde_json::from_value(tensor["error"].clone()).ok(),
        };
        Some((tensor["name"].as_str()?.to_owned(), counterpart))
    });
    sides.collect()
}

fn provenance(record: &Json) -> BTreeMap<String, String> {
    let source = record["source"].as_object().into_iter().flatten();
    let source = source.map(|(key, value)| (format!("source.{key}"), value));
    let here = ["importer", "target"].map(|key| (key.to_owned(), &record[key]));
    let shown = source.chain(here).filter_map(|(key, value)| match value {
        Json::String(text) => Some((key, text.clone())),
        Json::Number(number) => Some((key, number.to_string())),
        _ => None,
    });
    shown.collect()
}

/// The tensors, with scales and biases counted in their weight.
fn summaries(
    stored: &[StoredTensor],
    quantization: Option<&Json>,
    counterparts: &HashMap<String, Counterpart>,
) -> Vec<TensorSummary> {
    let by_name: HashMap<_, _> = stored.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut summaries = Vec::new();
    for tensor in stored {
        let mut summary = TensorSummary {
            name: tensor.name.clone(),
            type_name: tensor.dtype.clone(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
            counterpart: counterparts.get(&tensor.name).cloned(),
        };
        let (module, part) = tensor.name.rsplit_once('.').unwrap_or_default();
        let sibling = |part: &str| by_name.get(format!("{module}.{part}").as_str());
        match (part, sibling("scales"), sibling("biases")) {
            ("scales" | "biases", ..) if sibling("weight").is_some() => continue,
            ("weight", Some(scales), Some(biases)) => {
                summary.bytes += scales.bytes + biases.bytes;
                if let Some((group_len, bits)) = scheme(quantization, module) {
                    summary.type_name = format!("affine, {bits} bits, groups of {group_len}");
                    if let Some(columns) = summary.shape.last_mut() {
                        *columns = columns.saturating_mul(32) / bits;
                    }
                }
            }
            _ => {}
        }
        summaries.push(summary);
    }
    summaries
}

/// Group length and bits of a module.
fn scheme(quantization: Option<&Json>, module: &str) -> Option<(u64, u64)> {
    let quantization = quantization?;
    let own = quantization.get(module).filter(|own| own.is_object());
    let scheme = own.unwrap_or(quantization);
    let bits = scheme["bits"].as_u64().filter(|bits| *bits > 0)?;
    Some((scheme["group_size"].as_u64()?, bits))
}

fn tokenizer_summary(dir: &Path) -> Result<Option<TokenizerSummary>, Error> {
    let Some(tokenizer) = json(&dir.join("tokenizer.json"))? else {
        return Ok(None);
    };
    let config = json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let model = &tokenizer["model"];
    let kind = model["type"].as_str().unwrap_or("of an unknown kind");
    let tokens = match &model["vocab"] {
        Json::Object(vocabulary) => vocabulary.len(),
        Json::Array(vocabulary) => vocabulary.len(),
        _ => 0,
    };
    let kind = match model["byte_fallback"].as_bool() {
        Some(true) => format!("{kind} with byte fallback"),
        _ if tokenizer["decoder"]["type"] == "ByteLevel" => format!("byte-level {kind}"),
        _ => kind.to_owned(),
    };
    Ok(Some(TokenizerSummary {
        kind,
        tokens,
        chat_template: config.get("chat_template").is_some() || dir.join("chat_template.jinja").is_file(),
    }))
}
