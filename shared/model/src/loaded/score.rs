//! How likely the model finds tokens that are known already.

use kr_contract::SequenceId;
use kr_engine::model::{Logprobs, ModelError, Score, Scored};
use mlx_rs::Array;

use super::{LoadedModel, backend, values};
use crate::layers::dim;
use crate::sample::logprobs::logprobs;
use crate::step::indices;

/// Bytes of logits that are in memory at once; few in tests, so that tiny vocabularies have several chunks too.
const CHUNK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 16 << 20 };

/// Known tokens of one entry.
#[derive(Debug)]
pub(super) struct Scoring {
    pub(super) sequence: SequenceId,
    /// The entry's first token in the flat batch.
    pub(super) first: usize,
    pub(super) score: Score,
}

impl LoadedModel {
    /// `hidden`: `[tokens, hidden]` of the whole step. Logits are computed for the rows asked for only, a few at a time.
    pub(super) fn score(&self, hidden: &Array, scoring: &Scoring) -> Result<Scored, ModelError> {
        let vocabulary = self.info.vocab_size as usize;
        let rows_at_once = (CHUNK_BYTES / size_of::<f32>() / vocabulary).max(1);
        let mut found = Vec::with_capacity(scoring.score.targets.len());
        let mut first = scoring.first;
        for targets in scoring.score.targets.chunks(rows_at_once) {
            let rows = indices((first..first + targets.len()).map(dim).collect());
            let logits = self.logits(&hidden.take_axis(rows, 0).map_err(backend)?)?;
            let values = values(&logits)?;
            found.extend(self.rows.each(targets.len(), |row, scratch| -> Logprobs {
                let row_values = &values[row * vocabulary..(row + 1) * vocabulary];
                logprobs(row_values, scoring.score.top, targets[row], scratch)
            }));
            first += targets.len();
        }
        Ok(Scored {
            sequence: scoring.sequence,
            logprobs: found,
        })
    }
}
