//! Stretched contexts: GGUF has the kind and factor in its metadata, or the factors of all frequencies in a tensor, and
//! `config.json` has `rope_scaling`.

use serde_json::{Map, Value as Json, json};

use super::decoder::Sizes;
use super::{Architecture, Tensors};
use crate::error::{Error, Place};
use crate::tensor_type::{Codec, Dense};

/// Keys that this is read from.
pub(super) const KEYS: [&str; 5] = [
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
];

const FACTORS: &str = "rope_freqs.weight";
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Of Llama 3.1 and its successors.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_CONTEXT: f64 = 8192.0;

/// `rope_scaling`, `None` where nothing is stretched. `fields` are those of `config.json`.
pub(super) fn scaling(
    tensors: &mut Tensors<'_>,
    architecture: &Architecture,
    fields: &Map<String, Json>,
    sizes: Sizes,
) -> Result<Option<Json>, Error> {
    let reader = Reader { architecture, fields };
    if tensors.contains(FACTORS) {
        return reader.llama3(tensors, sizes);
    }
    if tensors.contains(LONG_FACTORS) || tensors.contains(SHORT_FACTORS) {
        return reader.longrope(tensors, sizes).map(Some);
    }
    reader.named(tensors)
}

struct Reader<'a> {
    architecture: &'a Architecture,
    fields: &'a Map<String, Json>,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.rope.scaling.{name}", self.architecture.name)
    }

    /// By the kind's name in the metadata.
    fn named(&self, tensors: &Tensors<'_>) -> Result<Option<Json>, Error> {
        let gguf = tensors.gguf;
        let factor = || gguf.required_float(&self.key("factor"));
        // llama.cpp takes a factor without a kind for a linear one.
        let otherwise = match gguf.float(&self.key("factor"))? {
            Some(_) => "linear",
            None => "none",
        };
        match gguf.text(&self.key("type"))?.unwrap_or(otherwise) {
            "none" | "" => {
                self.refuse_factor_of_attention(tensors)?;
                Ok(None)
            }
            "linear" => {
                self.refuse_factor_of_attention(tensors)?;
                Ok(Some(json!({"rope_type": "linear", "factor": factor()?})))
            }
            "yarn" => {
                self.refuse_factor_of_attention(tensors)?;
                let original = gguf.required_size(&self.key("original_context_length"))?;
                Ok(Some(
                    json!({"rope_type": "yarn", "factor": factor()?, "original_max_position_embeddings": original}),
                ))
            }
            other => {
                let key = Place::Key(self.key("type"));
                Err(gguf.unsupported(key, format!("{other:?}"), "none, linear, yarn"))
            }
        }
    }

    /// It scales attention in a way of its own for each kind; files of these kinds leave it out.
    fn refuse_factor_of_attention(&self, tensors: &Tensors<'_>) -> Result<(), Error> {
        let key = self.key("attn_factor");
        match tensors.gguf.float(&key)? {
            None => Ok(()),
            Some(factor) => {
                Err(tensors
                    .gguf
                    .unsupported(Place::Key(key), factor.to_string(), "models without this setting"))
            }
        }
    }

    /// By a factor for each frequency. Llama 3's are known by comparing: the largest one is its `factor`, the rest follow.
    fn llama3(&self, tensors: &mut Tensors<'_>, sizes: Sizes) -> Result<Option<Json>, Error> {
        let found = factors(tensors, FACTORS, sizes)?;
        let factor = found.iter().copied().fold(1.0, f64::max);
        let theta = self.fields.get("rope_theta").and_then(Json::as_f64).unwrap_or(10_000.0);
        let expected = llama3_factors(theta, factor, sizes.rotated);
        if found
            .iter()
            .zip(expected)
            .any(|(found, expected)| (found / expected - 1.0).abs() > 1e-3)
        {
            return Err(tensors.gguf.unsupported(
                Place::Tensor(FACTORS.to_owned()),
                "factors that are not those of Llama 3",
                "models without this tensor",
            ));
        }
        Ok((factor > 1.0).then(|| {
            json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW_FREQ_FACTOR,
                "high_freq_factor": HIGH_FREQ_FACTOR, "original_max_position_embeddings": 8192,
            })
        }))
    }

    /// By two sets of factors, for short contexts and for long ones.
    fn longrope(&self, tensors: &mut Tensors<'_>, sizes: Sizes) -> Result<Json, Error> {
        let (long, short) = (
            factors(tensors, LONG_FACTORS, sizes)?,
            factors(tensors, SHORT_FACTORS, sizes)?,
        );
        let gguf = tensors.gguf;
        let original = gguf.required_size(&self.key("original_context_length"))?;
        let mut scaling = json!({
            "rope_type": "longrope", "long_factor": long, "short_factor": short,
            "original_max_position_embeddings": original,
        });
        if let Some(factor) = gguf.float(&self.key("attn_factor"))? {
            scaling["attention_factor"] = json!(factor);
        }
        Ok(scaling)
    }
}

/// One for each pair of rotated elements.
fn factors(tensors: &mut Tensors<'_>, name: &str, sizes: Sizes) -> Result<Vec<f64>, Error> {
    let tensor = tensors.take(name, &[sizes.rotated / 2])?;
    if !matches!(tensor.tensor_type().codec, Some(Codec::Dense(Dense::Float32))) {
        let place = Place::Tensor(name.to_owned());
        return Err(tensors
            .gguf
            .unsupported(place, format!("type {}", tensor.type_name()), "F32"));
    }
    let (words, _) = tensors.gguf.data(tensor).as_chunks::<4>();
    let values: Vec<f64> = words.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect();
    match values.iter().all(|value| value.is_finite() && *value > 0.0) {
        true => Ok(values),
        false => {
            let place = Place::Tensor(name.to_owned());
            Err(tensors
                .gguf
                .inconsistent(place, "a factor that is not above 0", "positive factors"))
        }
    }
}

/// How much slower each pair turns.
fn llama3_factors(theta: f64, factor: f64, rotated: usize) -> impl Iterator<Item = f64> {
    #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2^53 elements")]
    let exponents = (0..rotated / 2).map(move |pair| 2.0 * pair as f64 / rotated as f64);
    exponents.map(move |exponent| {
        let turns = ORIGINAL_CONTEXT / (2.0 * std::f64::consts::PI * theta.powf(exponent));
        let kept = ((turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)).clamp(0.0, 1.0);
        ((1.0 - kept) / factor + kept).recip()
    })
}
