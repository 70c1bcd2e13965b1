//! Rotary positions as config.json describes them: `rope_parameters`, or `rope_theta` beside `rope_scaling` in older files.
//!
//! Every kind is computed as `modeling_rope_utils` of Hugging Face transformers does.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::Shape;
use crate::config::ConfigFile;
use crate::error::Result;
use crate::layers::Rotation;

/// How positions turn heads, and up to where.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    pub(crate) rotation: Rotation,
    /// Positions for which this holds: for some kinds fewer than `max_position_embeddings`.
    pub(crate) positions: u32,
}

/// Reads the rotation of whole heads.
pub(crate) fn read(config: &ConfigFile, shape: &Shape) -> Result<Rope> {
    let section = section(config)?;
    for field in [
        "partial_rotary_factor".to_owned(),
        format!("{section}.partial_rotary_factor"),
    ] {
        config.only(&field, &json!(1.0), "use a model without it")?;
    }
    read_section(config, shape, (section, shape.head_dim))
}

/// Reads the rotation of the first elements of heads: `partial_rotary_factor` of them.
pub(crate) fn read_partial(config: &ConfigFile, shape: &Shape) -> Result<Rope> {
    let section = section(config)?;
    let field = format!("{section}.partial_rotary_factor");
    let factor = config.positive_or(&field, config.positive_or("partial_rotary_factor", 1.0)?)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most the width of a head"
    )]
    let width = (f64::from(shape.head_dim) * factor.min(2.0)) as u32;
    if width > shape.head_dim || width == 0 || !width.is_multiple_of(2) {
        let problem = format!("of {} elements of a head it turns {width}", shape.head_dim);
        return Err(config.refuse(&field, &problem, "correct it"));
    }
    read_section(config, shape, (section, width))
}

/// Which object describes the rotation.
fn section(config: &ConfigFile) -> Result<&'static str> {
    match (config.get("rope_scaling"), config.get("rope_parameters")) {
        (Some(old), Some(new)) if old != new => Err(config.refuse(
            "rope_scaling",
            "rope_parameters says something else",
            "keep one of the two",
        )),
        (Some(_), None) => Ok("rope_scaling"),
        _ => Ok("rope_parameters"),
    }
}

/// Reads the object `section`, which may be absent, for the first `width` elements of heads.
pub(crate) fn read_section(config: &ConfigFile, shape: &Shape, (section, width): (&str, u32)) -> Result<Rope> {
    let fields = Fields { config, section };
    let kind = fields.kind()?;
    let theta = config.positive_or(&fields.name("rope_theta"), config.positive_or("rope_theta", 10_000.0)?)?;
    let base = Base { theta, width };
    let mut rope = Rope {
        rotation: Rotation {
            periods: base.periods(),
            scale: 1.0,
        },
        positions: shape.max_position_embeddings,
    };
    match kind {
        "default" => fields.allow(&[])?,
        "linear" => {
            fields.allow(&["factor"])?;
            let factor = fields.positive("factor")?;
            rope.rotation.periods.iter_mut().for_each(|period| *period *= factor);
        }
        // Up to max_position_embeddings, which is all there is here, it changes nothing.
        "dynamic" => fields.allow(&["factor", "original_max_position_embeddings"])?,
        "llama3" => Llama3::read(&fields, shape)?.stretch(&mut rope.rotation.periods),
        "yarn" => rope.rotation = Yarn::read(&fields, shape)?.rotation(base),
        "longrope" | "su" => longrope(&fields, shape, &mut rope)?,
        _ => {
            let problem = "supported are \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" and \"longrope\"";
            return Err(fields.refuse("rope_type", problem, "use a model with one of them"));
        }
    }
    Ok(rope)
}

/// Rotation as it was before contexts were stretched.
#[derive(Debug, Clone, Copy)]
struct Base {
    theta: f64,
    width: u32,
}

impl Base {
    /// θ^(2i / width) for each pair i.
    fn periods(self) -> Vec<f64> {
        let exponents = (0..self.width / 2).map(|pair| f64::from(2 * pair) / f64::from(self.width));
        exponents.map(|exponent| self.theta.powf(exponent)).collect()
    }
}

/// The object that describes a rotation.
struct Fields<'a> {
    config: &'a ConfigFile,
    section: &'a str,
}

impl Fields<'_> {
    fn name(&self, field: &str) -> String {
        format!("{}.{field}", self.section)
    }

    fn kind(&self) -> Result<&str> {
        let section = self.config.get(self.section);
        if section.is_some_and(|section| !section.is_object()) {
            return Err(self.config.refuse(self.section, "it must be an object", "correct it"));
        }
        let kind = ["rope_type", "type"].map(|field| self.config.get(&self.name(field)));
        match kind[0].or(kind[1]) {
            None => Ok("default"),
            Some(Value::String(kind)) => Ok(kind),
            Some(_) => Err(self.refuse("rope_type", "it must be a name", "correct it")),
        }
    }

    /// Refuses every field but `known` and those that all kinds have.
    fn allow(&self, known: &[&str]) -> Result<()> {
        let all = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
        let fields = self.config.get(self.section).and_then(Value::as_object);
        let unknown = fields
            .into_iter()
            .flat_map(|fields| fields.keys())
            .find(|field| !all.contains(&field.as_str()) && !known.contains(&field.as_str()));
        match unknown.filter(|field| self.config.get(&self.name(field)).is_some()) {
            None => Ok(()),
            Some(field) => Err(self.refuse(
                field,
                "this kind of rope_type is computed without it",
                "use a model without it",
            )),
        }
    }

    fn positive(&self, field: &str) -> Result<f64> {
        self.config.positive(&self.name(field))
    }

    fn positive_or(&self, field: &str, default: f64) -> Result<f64> {
        self.config.positive_or(&self.name(field), default)
    }

    /// The context before it was stretched, which some files have beside the object.
    fn original_positions(&self, shape: &Shape) -> Result<u32> {
        let field = "original_max_position_embeddings";
        let within = self
            .config
            .integer_or(&self.name(field), 1..=1 << 24, shape.max_position_embeddings)?;
        self.config.integer_or(field, 1..=1 << 24, within)
    }

    fn refuse(&self, field: &str, problem: &str, cure: &str) -> crate::Error {
        self.config.refuse(&self.name(field), problem, cure)
    }
}

/// Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783): slow pairs are slowed by `factor`, quick ones are not.
#[derive(Debug)]
struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original: f64,
}

impl Llama3 {
    fn read(fields: &Fields<'_>, shape: &Shape) -> Result<Self> {
        fields.allow(&[
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ])?;
        let llama3 = Self {
            factor: fields.positive("factor")?,
            low_freq_factor: fields.positive("low_freq_factor")?,
            high_freq_factor: fields.positive("high_freq_factor")?,
            original: f64::from(fields.original_positions(shape)?),
        };
        match llama3.high_freq_factor > llama3.low_freq_factor {
            true => Ok(llama3),
            false => Err(fields.refuse("high_freq_factor", "it must be above low_freq_factor", "correct it")),
        }
    }

    fn stretch(&self, periods: &mut [f64]) {
        for period in periods {
            let turns = self.original / (2.0 * PI * *period);
            let kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            *period = blend(*period, *period * self.factor, kept.clamp(0.0, 1.0));
        }
    }
}

/// The period whose frequency is `kept` parts that of `own` and the rest that of `other`.
fn blend(own: f64, other: f64, kept: f64) -> f64 {
    (kept / own + (1.0 - kept) / other).recip()
}

/// YaRN (Peng et al. 2023, arXiv 2309.00071).
#[derive(Debug)]
struct Yarn {
    factor: f64,
    original: f64,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
    attention_factor: f64,
}

impl Yarn {
    fn read(fields: &Fields<'_>, shape: &Shape) -> Result<Self> {
        fields.allow(&[
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "truncate",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
        ])?;
        let original = f64::from(fields.original_positions(shape)?);
        let factor = fields.positive("factor")?;
        let scale = |weight: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * weight * factor.ln() + 1.0
            }
        };
        let given = ["mscale", "mscale_all_dim"].map(|field| fields.config.get(&fields.name(field)).is_some());
        let suggested = match given {
            [true, true] => scale(fields.positive("mscale")?) / scale(fields.positive("mscale_all_dim")?),
            _ => scale(1.0),
        };
        Ok(Self {
            factor,
            original,
            beta_fast: fields.positive_or("beta_fast", 32.0)?,
            beta_slow: fields.positive_or("beta_slow", 1.0)?,
            truncate: fields.config.boolean_or(&fields.name("truncate"), true)?,
            attention_factor: fields.positive_or("attention_factor", suggested)?,
        })
    }

    fn rotation(&self, base: Base) -> Rotation {
        let width = f64::from(base.width);
        let pair_with = |turns: f64| width * (self.original / (turns * 2.0 * PI)).ln() / (2.0 * base.theta.ln());
        let (mut low, mut high) = (pair_with(self.beta_fast), pair_with(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        let kept = |pair: usize| {
            let pair = f64::from(u32::try_from(pair).unwrap_or(u32::MAX));
            1.0 - ((pair - low) / (high - low)).clamp(0.0, 1.0)
        };
        let periods = base.periods().into_iter().enumerate();
        #[expect(clippy::cast_possible_truncation, reason = "computed with in float32")]
        let scale = self.attention_factor as f32;
        Rotation {
            periods: periods
                .map(|(pair, own)| blend(own, own * self.factor, kept(pair)))
                .collect(),
            scale,
        }
    }
}

/// LongRoPE (Ding et al. 2024, arXiv 2402.13753). It has two sets of factors, one for contexts up to the original one and one for
/// longer ones. A sequence that grows from one to the other would have to be computed again from its first token, so the context
/// ends where the original one does, unless there was nothing to stretch.
fn longrope(fields: &Fields<'_>, shape: &Shape, rope: &mut Rope) -> Result<()> {
    fields.allow(&[
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
    ])?;
    let original = fields.original_positions(shape)?;
    let pairs = rope.rotation.periods.len();
    let short = fields.config.positives(&fields.name("short_factor"), pairs)?;
    fields.config.positives(&fields.name("long_factor"), pairs)?;
    let stretch = f64::from(shape.max_position_embeddings) / f64::from(original);
    let factor = fields.positive_or("factor", stretch)?;
    let suggested = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / f64::from(original).ln()).sqrt()
    };
    #[expect(clippy::cast_possible_truncation, reason = "computed with in float32")]
    let scale = fields.positive_or("attention_factor", suggested)? as f32;
    rope.rotation.scale = scale;
    for (period, factor) in rope.rotation.periods.iter_mut().zip(short) {
        *period *= factor;
    }
    rope.positions = original.min(shape.max_position_embeddings);
    Ok(())
}
