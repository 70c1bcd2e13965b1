//! GGUF files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{Counterpart, Inspection, TensorSummary, TokenizerSummary, WeightFile, file_name};
use crate::architecture;
use crate::convert::plan::Plan;
use crate::convert::{self, Target};
use crate::error::Error;
use crate::gguf::Gguf;
use crate::header::Tensor;
use crate::tokenizer::{self, ModelSizes};
use crate::value::{Array, Value};

const ABOUT: &str = "general.";
const MAX_ABOUT_BYTES: usize = 200;

pub(super) fn inspect(path: &Path) -> Result<Inspection, Error> {
    let gguf = Gguf::open(path)?;
    let (counterparts, problem) = match counterparts(&gguf) {
        Ok(counterparts) => (counterparts, None),
        Err(error) => (HashMap::new(), Some(error.to_string())),
    };
    let tensors = gguf.tensors().iter();
    Ok(Inspection {
        format: "GGUF",
        files: files(&gguf),
        architecture: text(&gguf, "general.architecture").map(str::to_owned),
        context_tokens: context_tokens(&gguf),
        tokenizer: tokenizer_summary(&gguf),
        quantization: None,
        provenance: provenance(&gguf),
        problem,
        tensors: tensors.map(|tensor| summary(tensor, &counterparts)).collect(),
    })
}

/// What an import to quantized weights makes of each tensor, by name.
fn counterparts(gguf: &Gguf) -> Result<HashMap<&str, Counterpart>, Error> {
    let model = architecture::read(gguf)?;
    convert::refuse_types_without_codec(gguf)?;
    let sizes = ModelSizes {
        vocab_size: model.vocab_size,
        context_length: model.context_length,
    };
    tokenizer::read(gguf, sizes)?;
    let plan = Plan::of(gguf, &model, Target::Quantized);
    let weights = plan.weights(&model);
    let sides = weights.map(|(weight, storage, error)| {
        let counterpart = Counterpart {
            name: weight.name.clone(),
            type_name: storage.to_string(),
            error,
        };
        (weight.tensor.name(), counterpart)
    });
    Ok(sides.collect())
}

fn summary(tensor: &Tensor, counterparts: &HashMap<&str, Counterpart>) -> TensorSummary {
    TensorSummary {
        name: tensor.name().to_owned(),
        type_name: tensor.type_name().to_owned(),
        shape: tensor.shape().iter().map(|length| *length as u64).collect(),
        bytes: tensor.bytes(),
        counterpart: counterparts.get(tensor.name()).cloned(),
    }
}

fn files(gguf: &Gguf) -> Vec<WeightFile> {
    let file = |(path, bytes): (&Path, &[u8])| WeightFile {
        name: file_name(path),
        bytes: bytes.len() as u64,
    };
    gguf.parts().map(file).collect()
}

fn text<'a>(gguf: &'a Gguf, key: &str) -> Option<&'a str> {
    gguf.text(key).ok().flatten()
}

fn context_tokens(gguf: &Gguf) -> Option<u64> {
    let key = format!("{}.context_length", text(gguf, "general.architecture")?);
    gguf.size(&key).ok().flatten().map(u64::from)
}

fn tokenizer_summary(gguf: &Gguf) -> Option<TokenizerSummary> {
    let kind = text(gguf, "tokenizer.ggml.model")?;
    let name = tokenizer::kind_name(kind).unwrap_or(kind);
    let tokens = match gguf.metadata().get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::Strings(tokens))) => tokens.len(),
        _ => 0,
    };
    Some(TokenizerSummary {
        kind: match text(gguf, "tokenizer.ggml.pre") {
            Some(rule) if kind == "gpt2" => format!("{name}, split as {rule:?}"),
            _ => name.to_owned(),
        },
        tokens,
        chat_template: text(gguf, "tokenizer.chat_template").is_some(),
    })
}

/// What the file says about itself, in short texts.
fn provenance(gguf: &Gguf) -> BTreeMap<String, String> {
    let short = gguf.metadata().iter().filter_map(|(key, value)| match value {
        Value::String(text) if text.len() <= MAX_ABOUT_BYTES => {
            Some((key.strip_prefix(ABOUT)?.to_owned(), text.clone()))
        }
        _ => None,
    });
    short.filter(|(key, _)| key != "architecture").collect()
}
