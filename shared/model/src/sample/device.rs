//! Sampling on arrays: the chosen tokens stay where the next step can use them before the host has read them.

use kr_engine::model::Sample;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, put_along_axis, take_along_axis};
use mlx_rs::ops::{exp, maximum, minimum, select, sort_axis};
use mlx_rs::{Array, Dtype};

use super::adjust::{self, Change};
use super::uniform;
use crate::layers::dim;
use crate::step::indices;

/// What was chosen for the rows of a step.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// `[rows]`, int32.
    pub(crate) tokens: Array,
    /// `[rows]`, bool: whether the row's logits were finite.
    pub(crate) finite: Array,
}

/// `logits`: `[rows, vocabulary]`, float32; `samples`: one for each row.
pub(crate) fn choose(logits: &Array, samples: &[Sample]) -> Result<Chosen> {
    let mut finite = logits.is_finite()?.all_axis(-1, false)?;
    let mut adjusted = logits.clone();
    if let Some(changes) = Changes::new(samples, logits.dim(1)) {
        adjusted = changes.apply(logits)?;
        finite = finite.logical_and(adjusted.max_axis(-1, false)?.is_finite()?)?;
    }
    let mut tokens = argmax_axis(&adjusted, -1, false)?.as_dtype(Dtype::Int32)?;
    let sampled: Vec<usize> = (0..samples.len())
        .filter(|row| !samples[*row].params.is_greedy())
        .collect();
    if !sampled.is_empty() {
        let rows = indices(sampled.iter().map(|row| dim(*row)).collect());
        let chosen = choose_random(&adjusted.take_axis(&rows, 0)?, &sampled, samples)?;
        tokens = put_along_axis(&tokens, &rows, &chosen, 0)?;
    }
    Ok(Chosen { tokens, finite })
}

/// What happens to single logits, `[changes]` each.
struct Changes {
    /// Index into the flat logits.
    places: Array,
    bias: Array,
    repetition_penalty: Array,
    subtracted: Array,
    forbidden: Array,
}

impl Changes {
    /// `None` where there are none.
    fn new(samples: &[Sample], vocabulary: i32) -> Option<Self> {
        let mut places = Vec::new();
        let mut changes = Vec::new();
        for (row, sample) in (0..).zip(samples) {
            for (id, change) in adjust::changes(sample, vocabulary.unsigned_abs()) {
                places.push(row * vocabulary + id.cast_signed());
                changes.push(change);
            }
        }
        if changes.is_empty() {
            return None;
        }
        let column = |value: fn(&Change) -> f32| {
            let values: Vec<f32> = changes.iter().map(value).collect();
            Array::from_slice(&values, &[dim(values.len())])
        };
        let forbidden: Vec<bool> = changes.iter().map(|change| change.forbidden).collect();
        Some(Self {
            places: indices(places),
            bias: column(|change| change.bias),
            repetition_penalty: column(|change| change.repetition_penalty),
            subtracted: column(|change| change.subtracted),
            forbidden: Array::from_slice(&forbidden, &[dim(forbidden.len())]),
        })
    }

    /// As [`adjust::adjust`] does row by row.
    fn apply(&self, logits: &Array) -> Result<Array> {
        let flat = logits.flatten(None, None)?;
        let biased = flat.take_axis(&self.places, 0)?.add(&self.bias)?;
        let repeated = select(
            biased.gt(Array::from_f32(0.0))?,
            biased.divide(&self.repetition_penalty)?,
            biased.multiply(&self.repetition_penalty)?,
        )?;
        let lowered = repeated.subtract(&self.subtracted)?;
        let changed = select(&self.forbidden, Array::from_f32(f32::NEG_INFINITY), lowered)?;
        put_along_axis(&flat, &self.places, &changed, 0)?.reshape(logits.shape())
    }
}

/// `logits`: `[n, vocabulary]` of the rows `rows` of `samples`. Returns `[n]`, int32.
fn choose_random(logits: &Array, rows: &[usize], samples: &[Sample]) -> Result<Array> {
    let column = |value: fn(&Sample) -> f32| {
        let values: Vec<f32> = rows.iter().map(|row| value(&samples[*row])).collect();
        Array::from_slice(&values, &[dim(values.len()), 1])
    };
    let max = logits.max_axis(-1, true)?;
    let temperature = column(|sample| sample.params.temperature);
    let weights = exp(logits.subtract(&max)?.divide(&temperature)?)?;
    let filters = |row: &usize| {
        let params = &samples[*row].params;
        params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0
    };
    let kept = match rows.iter().any(filters) {
        false => weights,
        true => {
            let vocabulary = logits.dim(1);
            let top_k: Vec<i32> = rows
                .iter()
                .map(|row| i32::try_from(samples[*row].params.top_k).unwrap_or(i32::MAX))
                .map(|top_k| if top_k == 0 { vocabulary } else { top_k.min(vocabulary) })
                .collect();
            let filter = Filter {
                top_k: Array::from_slice(&top_k, &[dim(rows.len()), 1]),
                top_p: column(|sample| sample.params.top_p),
                min_p: column(|sample| sample.params.min_p),
            };
            filter.apply(&weights)?
        }
    };
    let cumulative = kept.cumsum(-1, false, true)?;
    let target = cumulative.try_index((.., -1..))?.multiply(column(uniform))?;
    let passed = cumulative.le(&target)?.as_dtype(Dtype::Int32)?.sum_axis(-1, false)?;
    // Where rounding leaves no token, the most likely one.
    let fallback = argmax_axis(logits, -1, false)?.as_dtype(Dtype::Int32)?;
    select(passed.lt(Array::from_int(logits.dim(1)))?, &passed, &fallback)
}

/// The filters of each row, `[n, 1]`.
struct Filter {
    top_k: Array,
    top_p: Array,
    min_p: Array,
}

impl Filter {
    /// `weights`: `[n, vocabulary]`, 1 for the most likely token. Zeroes what is filtered out.
    fn apply(&self, weights: &Array) -> Result<Array> {
        let vocabulary = weights.dim(1);
        let nothing = Array::from_f32(0.0);
        // Descending, by sorting negated weights.
        let sorted = sort_axis(weights.negative()?, -1)?.negative()?;
        let kth = take_along_axis(&sorted, self.top_k.subtract(Array::from_int(1))?, -1)?;
        let among = select(sorted.ge(&kth)?, &sorted, &nothing)?;
        let before = among.cumsum(-1, false, false)?;
        let wanted = among.sum_axis(-1, true)?.multiply(&self.top_p)?;
        // Everything whose predecessors do not yet hold enough: the last of them is the least likely one to keep.
        let count = before.lt(&wanted)?.as_dtype(Dtype::Int32)?.sum_axis(-1, true)?;
        let last =
            minimum(maximum(&count, Array::from_int(1))?, Array::from_int(vocabulary))?.subtract(Array::from_int(1))?;
        let nucleus = take_along_axis(&sorted, last, -1)?;
        let off = self.top_p.ge(Array::from_f32(1.0))?;
        let nucleus = select(off, &nothing, &nucleus)?;
        let least = maximum(maximum(&kth, &nucleus)?, &self.min_p)?;
        select(weights.ge(&least)?, weights, &nothing)
    }
}
