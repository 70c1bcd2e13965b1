//! From a computed step to what it chose.

use kr_contract::{SequenceId, TokenId};
use kr_engine::model::{ModelError, Sample, SampleError, Sampled};
use mlx_rs::Array;

use super::values;
use crate::sample::device::Chosen;
use crate::sample::host::{self, Scratch};
use crate::sample::logprobs::logprobs;
use crate::sample::rows::Rows;

type Chooser<'a> = dyn Fn(usize, &mut Scratch) -> Result<TokenId, SampleError> + Sync + 'a;

/// Chooses from `logits`, `[rows, vocabulary]`, float32.
pub(super) fn choose(
    wanted: Vec<(SequenceId, Sample)>,
    logits: &Array,
    rows: &Rows,
) -> Result<Vec<Sampled>, ModelError> {
    let logits = RowsOf::new(logits)?;
    let chooser = |row: usize, scratch: &mut Scratch| host::choose(logits.row(row), &wanted[row].1, scratch);
    Ok(sampled(&wanted, &chooser, &logits, rows))
}

/// Reads what the device chose; logits only where log probabilities were asked for.
pub(super) fn read_chosen(
    wanted: Vec<(SequenceId, Sample)>,
    chosen: &Chosen,
    logits: &Array,
    rows: &Rows,
) -> Result<Vec<Sampled>, ModelError> {
    let slice = |error| ModelError::Backend(Box::new(error));
    let tokens = chosen.tokens.try_as_slice::<i32>().map_err(slice)?;
    let finite = chosen.finite.try_as_slice::<bool>().map_err(slice)?;
    let logits = match wanted.iter().any(|(_, sample)| sample.params.logprobs.is_some()) {
        true => RowsOf::new(logits)?,
        false => RowsOf::default(),
    };
    let chooser = |row: usize, _: &mut Scratch| match finite[row] {
        true => Ok(tokens[row].unsigned_abs()),
        false => Err(SampleError::NotFinite),
    };
    Ok(sampled(&wanted, &chooser, &logits, rows))
}

fn sampled(wanted: &[(SequenceId, Sample)], choose: &Chooser<'_>, logits: &RowsOf<'_>, rows: &Rows) -> Vec<Sampled> {
    rows.each(wanted.len(), |row, scratch| {
        let (sequence, sample) = &wanted[row];
        let token = choose(row, scratch);
        let logprobs = match (token, sample.params.logprobs) {
            (Ok(chosen), Some(top)) => Some(logprobs(logits.row(row), top, chosen, scratch)),
            _ => None,
        };
        Sampled {
            sequence: *sequence,
            token,
            logprobs,
        }
    })
}

/// Rows in host memory.
#[derive(Debug, Default)]
struct RowsOf<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> RowsOf<'a> {
    fn new(array: &'a Array) -> Result<Self, ModelError> {
        Ok(Self {
            values: values(array)?,
            width: array.dim(1).unsigned_abs() as usize,
        })
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}
