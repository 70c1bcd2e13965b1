//! The models of this server as clients name them: names, aliases, tokenizers and what config.json says of their size.
//! Knows no worker; what only a worker can tell is in the dispatcher's snapshot.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kr_tokenizer::Bundle;

use crate::error::Error;
use crate::sequence::ModelIndex;

/// One model.
#[derive(Debug)]
pub(crate) struct ServedModel {
    pub(crate) index: ModelIndex,
    pub(crate) name: Arc<str>,
    pub(crate) aliases: Vec<String>,
    pub(crate) bundle: Arc<Bundle>,
    /// `max_position_embeddings` of config.json, where it has one.
    pub(crate) context_tokens: Option<u32>,
}

/// All models, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: Vec<Arc<ServedModel>>,
    by_name: HashMap<String, ModelIndex>,
}

impl Catalog {
    /// Makes a catalog. Where two models claim a name, which the configuration rules out, the first keeps it.
    pub(crate) fn new(models: Vec<ServedModel>) -> Self {
        let models: Vec<_> = models.into_iter().map(Arc::new).collect();
        let mut by_name = HashMap::new();
        for model in &models {
            for name in std::iter::once(&*model.name).chain(model.aliases.iter().map(String::as_str)) {
                by_name.entry(name.to_owned()).or_insert(model.index);
            }
        }
        Self { models, by_name }
    }

    pub(crate) fn models(&self) -> &[Arc<ServedModel>] {
        &self.models
    }

    /// Finds a model by name or alias; an empty name is the only model's.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], or a violation where the name is missing and several models are served.
    pub(crate) fn resolve(&self, name: &str) -> Result<&Arc<ServedModel>, Error> {
        if name.is_empty() {
            return match self.models.as_slice() {
                [only] => Ok(only),
                several => {
                    let names: Vec<&str> = several.iter().map(|model| &*model.name).collect();
                    let description = format!("is missing, and several models are served: {}", names.join(", "));
                    Err(Error::field("model", description))
                }
            };
        }
        let index = self.by_name.get(name).ok_or_else(|| Error::UnknownModel {
            name: name.chars().take(MAX_SHOWN_NAME).collect(),
        })?;
        self.models
            .get(index.0)
            .ok_or_else(|| Error::internal("catalog", format!("no model {}", index.0)))
    }
}

/// Characters of an unknown name that an answer repeats.
const MAX_SHOWN_NAME: usize = 100;

/// Reads the longest context from a model's `config.json`; `None` where there is none or it does not say.
pub(crate) fn context_of(model: &Path) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct ModelConfig {
        max_position_embeddings: Option<u32>,
    }
    let text = std::fs::read(model.join("config.json")).ok()?;
    serde_json::from_slice::<ModelConfig>(&text)
        .ok()?
        .max_position_embeddings
}

#[cfg(test)]
pub(crate) mod tests;
