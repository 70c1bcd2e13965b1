//! The JSON files of a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::Checksums;
use super::plan::{Plan, Storage};
use super::staging::MARKER;
use crate::architecture::{Model, Weight};
use crate::error::Error;
use crate::gguf::Gguf;
use crate::tensor_type::{Affine, Dense};
use crate::tokenizer::Tokenizer;

/// Everything the files are made of.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) model: &'a Model<'a>,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) plan: &'a Plan,
    pub(super) checksums: &'a Checksums,
}

impl Documents<'_> {
    pub(super) fn all(&self) -> Result<[(&'static str, Json); 5], Error> {
        Ok([
            ("config.json", self.config()),
            ("generation_config.json", Json::Object(self.ids())),
            ("tokenizer.json", self.tokenizer.tokenizer.clone()),
            ("tokenizer_config.json", self.tokenizer.config.clone()),
            (MARKER, self.provenance()?),
        ])
    }

    fn config(&self) -> Json {
        let mut config = self.model.config.clone();
        config.insert("torch_dtype".into(), self.dtype().into());
        config.extend(self.ids());
        if let Some(quantization) = self.quantization() {
            config.insert("quantization".into(), quantization);
        }
        Json::Object(config)
    }

    fn storages(&self) -> impl Iterator<Item = (&Weight<'_>, Storage)> {
        let weights = self.plan.weights(self.model);
        weights.map(|(weight, storage, _)| (weight, storage))
    }

    /// The type to compute in: a half-width one only for models whose matrices are all stored so.
    fn dtype(&self) -> &'static str {
        let all = |wanted: Dense| {
            let mut matrices = self.storages().filter(|(weight, _)| weight.tensor.rows() > 1);
            matrices.all(|(_, storage)| matches!(storage, Storage::Dense(dense) if dense == wanted))
        };
        let halves = [Dense::Float16, Dense::Bfloat16];
        let dense = halves.into_iter().find(|dense| all(*dense));
        dense.unwrap_or(Dense::Float32).name()
    }

    /// The most frequent width as the default and every other matrix by its module's name.
    fn quantization(&self) -> Option<Json> {
        let mut widths = BTreeMap::<_, usize>::new();
        for (_, storage) in self.storages() {
            if let Storage::Affine(affine) = storage {
                *widths.entry((affine.group_len, affine.bits)).or_default() += 1;
            }
        }
        let (default, _) = widths.iter().max_by_key(|(_, count)| **count)?;
        let default = *default;
        let describe = |(group_len, bits)| json!({"group_size": group_len, "bits": bits});
        let mut quantization = describe(default);
        for (weight, storage) in self.storages().filter(|(weight, _)| weight.tensor.rows() > 1) {
            let module = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
            match storage {
                Storage::Affine(Affine { group_len, bits, .. }) if (group_len, bits) == default => {}
                Storage::Affine(Affine { group_len, bits, .. }) => quantization[module] = describe((group_len, bits)),
                Storage::Dense(_) => quantization[module] = false.into(),
            }
        }
        Some(quantization)
    }

    fn ids(&self) -> Map<String, Json> {
        let ids = &self.tokenizer.ids;
        let eos = match ids.eos.as_slice() {
            [] => Json::Null,
            [id] => json!(id),
            several => json!(several),
        };
        let named = [
            ("bos_token_id", json!(ids.bos)),
            ("eos_token_id", eos),
            ("pad_token_id", json!(ids.pad)),
        ];
        named.into_iter().map(|(name, id)| (name.to_owned(), id)).collect()
    }

    fn provenance(&self) -> Result<Json, Error> {
        let tensors = self.plan.weights(self.model).map(|(weight, storage, error)| {
            let mut tensor = json!({
                "source": weight.tensor.name(),
                "source_type": weight.tensor.type_name(),
                "name": weight.name,
                "stored_as": storage.to_string(),
                "exact": error.is_none(),
            });
            if let Some(error) = error {
                tensor["error"] = json!(error);
            }
            tensor
        });
        let file = |(path, bytes, sha256): (&Path, u64, &String)| json!({"file": path.file_name().map(|name| name.to_string_lossy()), "bytes": bytes, "sha256": sha256});
        let parts = self.gguf.parts().zip(&self.checksums.parts);
        let parts: Vec<_> = parts
            .map(|((path, bytes), sha256)| file((path, bytes.len() as u64, sha256)))
            .collect();
        Ok(json!({
            "format": 1,
            "importer": concat!("kr-gguf ", env!("CARGO_PKG_VERSION")),
            "source": {
                "file": self.gguf.path().file_name().map(|name| name.to_string_lossy()),
                "bytes": self.gguf.parts().map(|(_, bytes)| bytes.len()).sum::<usize>(),
                "sha256": self.checksums.source,
                "parts": parts,
                "architecture": self.gguf.text("general.architecture")?,
                "name": self.gguf.text("general.name")?,
                "license": self.gguf.text("general.license")?,
            },
            "target": self.plan.target.to_string(),
            "tensors": tensors.collect::<Vec<_>>(),
        }))
    }
}
